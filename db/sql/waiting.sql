-- What waits of some models without a share: each (model, class, team) by age, each (model, team, rank)
-- of batches by prefix, and suspects, all that they are, with the first row of each (of suspects the
-- nearest deadline, too). A skip scan, for it costs one step for each team and not for each row. The
-- first row is where claims begin: from the head they would step over every dead row that an old
-- snapshot keeps.
with recursive
served as (
    select model from unnest($1::text[]) as s(model)
),
aged as (
    select s.model, c.class, first.team_id, first.id
    from served s
    cross join unnest($2::smallint[]) as c(class)
    cross join lateral (
        select q.team_id, q.id from queue q
        where q.model = s.model and q.class = c.class and q.state = 0 and q.share is null
        order by q.team_id, q.id limit 1
    ) first
    union all
    select a.model, a.class, next.team_id, next.id
    from aged a
    cross join lateral (
        select q.team_id, q.id from queue q
        where
            q.model = a.model and q.class = a.class and q.state = 0 and q.share is null
            and q.team_id > a.team_id
        order by q.team_id, q.id limit 1
    ) next
),
patient as (
    select s.model, first.team_id, first.rank, first.prefix_key, first.id
    from served s
    cross join lateral (
        select q.team_id, q.rank, q.prefix_key, q.id from queue q
        where q.model = s.model and q.class = 2 and q.state = 0 and q.share is null
        order by q.team_id, q.rank, q.prefix_key, q.id limit 1
    ) first
    union all
    select p.model, next.team_id, next.rank, next.prefix_key, next.id
    from patient p
    cross join lateral (
        select q.team_id, q.rank, q.prefix_key, q.id from queue q
        where
            q.model = p.model and q.class = 2 and q.state = 0 and q.share is null
            and (q.team_id, q.rank) > (p.team_id, p.rank)
        order by q.team_id, q.rank, q.prefix_key, q.id limit 1
    ) next
)
select
    model, class, team_id, 0::smallint as rank, 0 as lost, null::bigint as prefix_key,
    null::smallint as share, null::timestamptz as deadline, id
from aged
union all
select model, 2::smallint, team_id, rank, 0, prefix_key, null, null, id from patient
union all
-- Few, for they were in engines that died.
select
    s.model, suspect.class, suspect.team_id, 0::smallint, suspect.lost, null, suspect.share,
    suspect.deadline, suspect.id
from served s
cross join lateral (
    select distinct on (q.class, q.team_id, q.share, q.lost)
        q.class, q.team_id, q.share, q.lost, q.id,
        min(q.deadline) over (partition by q.class, q.team_id, q.share, q.lost) as deadline
    from queue q
    where q.state = 3 and q.model = s.model
    order by q.class, q.team_id, q.share, q.lost, q.id
) suspect
