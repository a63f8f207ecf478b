-- Says that a run lives, and learns which of the claims that it holds are no longer its own
-- (cancelled, swept), and which rows it owns without knowing: those of a claim whose answer was lost
-- with the connection. Not alive means that the run was ended. $4 is what its engine says of itself.
with beat as (
    update runs
    set heartbeat_at = now(), in_flight = cardinality($2::uuid[]), figures = $4
    where id = $1 and ended_at is null
    returning id
)
select
    exists (select from beat) as alive,
    array(
        select h.id
        from unnest($2::uuid[], $3::integer[]) as h(id, epoch)
        where not exists (
            select from queue q where q.id = h.id and q.epoch = h.epoch
                and (q.owner = $1) is true -- no way to reach the rows by
        )
    ) as gone,
    array(
        select q.id
        from queue q
        where q.owner = $1 and q.claimed_at < now() - interval '5 seconds' and q.id <> all($2)
    ) as strays
