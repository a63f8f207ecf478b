-- Finds the recent requests of a fingerprint that are not delivered, with each one's last connection:
-- a retry takes over one whose connection has ended, at most one retry each. A connection has ended
-- when its end was noted, or when the API process that held it is dead. One that was cancelled has
-- no answer to give: a client that comes back after its grace, or asks what another has given up, is
-- served anew.
select
    r.id, coalesce(last.successor, r.id) as connection,
    exists (select from disconnects d where d.connection = coalesce(last.successor, r.id))
    or not exists (
        select from processes p
        where p.id = coalesce(last.incarnation, r.incarnation) and p.ended_at is null
    ) as ended
from requests r
left join lateral (
    select a.successor, a.incarnation
    from reattachments a
    where a.request_id = r.id
    order by a.successor desc
    limit 1
) last on true
where
    r.fingerprint = $1 and r.team_id = $2 and r.id > $3 and r.incarnation is not null
    and not exists (select from deliveries d where d.id = r.id)
    and not exists (select from results s where s.id = r.id and s.outcome = 2)
order by ended desc, r.id
limit 64
