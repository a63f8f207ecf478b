-- What waits of some models with a share of the traffic: each (model, class, team) with its oldest
-- row, by a skip scan as in waiting.sql.
with recursive
aged as (
    select s.model, c.class, first.team_id, first.id
    from unnest($1::text[]) as s(model)
    cross join (values (0::smallint), (1::smallint), (2::smallint)) as c(class)
    cross join lateral (
        select q.team_id, q.id from queue q
        where q.model = s.model and q.class = c.class and q.state = 0 and q.share is not null
        order by q.team_id, q.id limit 1
    ) first
    union all
    select a.model, a.class, next.team_id, next.id
    from aged a
    cross join lateral (
        select q.team_id, q.id from queue q
        where
            q.model = a.model and q.class = a.class and q.state = 0 and q.share is not null
            and q.team_id > a.team_id
        order by q.team_id, q.id limit 1
    ) next
)
select model, class, team_id, id from aged
