-- Stores requests that may share a computation. The first of those that are identical leads and can be
-- claimed; the others wait for its answer (state 4). The leader's row is locked while they come, so
-- that its end comes wholly before or after; one that is just ending lets the next lead. None follows
-- one that has more time than itself, which may go where answers take long: it runs by itself. Of those
-- that come at once with the same span the deadlines are not quite the same: 1 second is no more time.
-- Returns who follows a leader that a run has now, and would read its chunks: a later claim finds them.
with new as (
    select *
    from unnest(
        $1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::smallint[], $6::smallint[],
        $7::text[], $8::boolean[], $9::bytea[], $10::uuid[], $11::uuid[], $12::uuid[],
        $13::smallint[], $14::bigint[], $15::timestamptz[], $16::text[]
    ) as n(
        id, team_id, key_id, person, class, endpoint,
        model, streamed, body, twin, incarnation, channel,
        share, prefix_key, deadline, traceparent
    )
), stored as (
    insert into requests (
        id, team_id, key_id, person, class, endpoint, model, streamed, body, fingerprint,
        incarnation, deadline, traceparent, shareable
    )
    select
        id, team_id, key_id, person, class, endpoint, model, streamed, body, twin, incarnation,
        deadline, traceparent, true
    from new
), leader as (
    insert into queue (
        id, team_id, key_id, person, class, endpoint, model, streamed, channel, awaited, share,
        prefix_key, deadline, twin, followed
    )
    select distinct on (twin)
        id, team_id, key_id, person, class, endpoint, model, streamed, channel,
        channel is not null, share, prefix_key, deadline, twin,
        count(*) over (partition by twin) > 1
    from new
    order by twin, deadline, id
    on conflict (twin) where twin is not null and leader is null
    do update set followed = true
    returning
        id, twin, coalesce(deadline, 'infinity') - interval '1 second' as deadline,
        case when owner_kind = 1 then owner end as run
), other as (
    insert into queue (
        id, team_id, key_id, person, class, endpoint, model, streamed, channel, awaited, share,
        prefix_key, deadline, twin, leader, state
    )
    select
        n.id, n.team_id, n.key_id, n.person, n.class, n.endpoint, n.model, n.streamed, n.channel,
        n.channel is not null, n.share, n.prefix_key, n.deadline,
        case when follows then n.twin end, case when follows then l.id end,
        case when follows then 4 else 0 end
    from new n
    join leader l on l.twin = n.twin
    cross join lateral (
        select l.deadline <= coalesce(n.deadline, 'infinity') as follows
    ) f
    where n.id <> l.id
    returning id, leader, streamed, channel
)
select o.id, l.id as leader, l.run
from other o
join leader l on l.id = o.leader
where o.streamed and o.channel is not null and l.run is not null
