-- How many requests wait and run, by model, class and team, and the first that waits of each. What may be
-- claimed, by far the most, is counted on indexes alone (60 ms for a million; their table would be
-- 140 ms); of all else each index holds just those rows. uuid has no min() before Postgres 18.
with ready as (
    select model, class, team_id, false as shared, count(*) as number
    from queue where state = 0 and share is null
    group by model, class, team_id
    union all
    select model, class, team_id, true, count(*)
    from queue where state = 0 and share is not null
    group by model, class, team_id
),
counted as (
    select
        r.model, r.class, r.team_id, 0 as state, r.number,
        case when r.shared then (
            select q.id from queue q
            where
                q.model = r.model and q.class = r.class and q.team_id = r.team_id and q.state = 0
                and q.share is not null
            order by q.id limit 1
        ) else (
            select q.id from queue q
            where
                q.model = r.model and q.class = r.class and q.team_id = r.team_id and q.state = 0
                and q.share is null
            order by q.id limit 1
        ) end as oldest
    from ready r
    union all
    select model, class, team_id, 1, count(*), null
    from queue where owner is not null and state = 1
    group by model, class, team_id
    union all
    select model, class, team_id, 2, count(*), min(id::text)::uuid
    from queue where state = 2
    group by model, class, team_id
    union all
    select model, class, team_id, 3, count(*), min(id::text)::uuid
    from queue where state = 3
    group by model, class, team_id
    union all
    select model, class, team_id, 4, count(*), min(id::text)::uuid
    from queue where leader is not null and state = 4
    group by model, class, team_id
)
select
    c.model, c.class, c.team_id, coalesce(t.name, '') as team,
    coalesce(sum(c.number) filter (where c.state = 0), 0)::bigint as ready,
    coalesce(sum(c.number) filter (where c.state = 1), 0)::bigint as in_flight,
    coalesce(sum(c.number) filter (where c.state = 2), 0)::bigint as backing_off,
    coalesce(sum(c.number) filter (where c.state = 3), 0)::bigint as suspect,
    coalesce(sum(c.number) filter (where c.state = 4), 0)::bigint as following,
    min(c.oldest::text)::uuid as oldest
from counted c left join teams t on t.id = c.team_id
group by c.model, c.class, c.team_id, t.name
order by c.model, c.class, t.name
