-- What waits of some models and classes with a deadline of its own: each (model, class, team) with the
-- row whose deadline is the nearest, by a skip scan as in waiting.sql.
with recursive
due as (
    select s.model, c.class, first.team_id, first.deadline, first.id
    from unnest($1::text[]) as s(model)
    cross join unnest($2::smallint[]) as c(class)
    cross join lateral (
        select q.team_id, q.deadline, q.id from queue q
        where
            q.model = s.model and q.class = c.class and q.state = 0 and q.deadline is not null
        order by q.team_id, q.deadline, q.id limit 1
    ) first
    union all
    select d.model, d.class, next.team_id, next.deadline, next.id
    from due d
    cross join lateral (
        select q.team_id, q.deadline, q.id from queue q
        where
            q.model = d.model and q.class = d.class and q.state = 0 and q.deadline is not null
            and q.team_id > d.team_id
        order by q.team_id, q.deadline, q.id limit 1
    ) next
)
select model, class, team_id, deadline, id from due
