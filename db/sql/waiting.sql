-- The (model, class, team) for which rows may be claimed by a backend: a skip scan, for it costs
-- one step for each team and not for each row.
with recursive
served as (
    select distinct r.model from routes r where r.backend = $1
),
aged as (
    select s.model, c.class, (
        select min(q.team_id) from queue q
        where q.model = s.model and q.class = c.class and q.class < 2 and q.state = 0
    ) as team_id
    from served s cross join (values (0::smallint), (1::smallint)) as c(class)
    union all
    select a.model, a.class, (
        select min(q.team_id) from queue q
        where
            q.model = a.model and q.class = a.class and q.class < 2 and q.state = 0
            and q.team_id > a.team_id
    )
    from aged a where a.team_id is not null
),
patient as (
    select s.model, (
        select min(q.team_id) from queue q
        where q.model = s.model and q.class = 2 and q.state = 0
    ) as team_id
    from served s
    union all
    select p.model, (
        select min(q.team_id) from queue q
        where q.model = p.model and q.class = 2 and q.state = 0 and q.team_id > p.team_id
    )
    from patient p where p.team_id is not null
)
select model, class, team_id, 0 as lost from aged where team_id is not null
union all
select model, 2::smallint, team_id, 0 from patient where team_id is not null
union all
select s.model, 0::smallint, 0, suspect.lost
from served s
cross join lateral (
    select q.lost from queue q where q.state = 3 and q.model = s.model
    order by q.lost limit 1
) suspect
