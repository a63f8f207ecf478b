-- Hands claimed requests back unharmed, as a run that is shut down does: no attempt is counted.
-- The epoch grows with the next claim, so a late answer of this one is dropped.
update queue q
set state = case when q.lost >= 2 then 3 else 0 end, owner_kind = 0, owner = null
from unnest($2::uuid[], $3::integer[]) as r(id, epoch)
where q.id = r.id and q.epoch = r.epoch
    and (q.owner = $1) is true -- no way to reach the rows by
returning q.id, q.model, q.class, q.team_id, q.rank
