-- Stores requests and lets them wait: a body in `requests` and a row of `queue`, or neither.
with new as (
    select *
    from unnest(
        $1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::smallint[], $6::smallint[],
        $7::text[], $8::boolean[], $9::bytea[], $10::uuid[], $11::uuid[], $12::uuid[],
        $13::smallint[], $14::bigint[], $15::timestamptz[], $16::text[]
    ) as n(
        id, team_id, key_id, person, class, endpoint,
        model, streamed, body, fingerprint, incarnation, channel,
        share, prefix_key, deadline, traceparent
    )
), stored as (
    insert into requests (
        id, team_id, key_id, person, class, endpoint, model, streamed, body, fingerprint,
        incarnation, deadline, traceparent
    )
    select
        id, team_id, key_id, person, class, endpoint, model, streamed, body, fingerprint,
        incarnation, deadline, traceparent
    from new
)
insert into queue (
    id, team_id, key_id, person, class, endpoint, model, streamed, channel, awaited, share,
    prefix_key, deadline
)
select
    id, team_id, key_id, person, class, endpoint, model, streamed, channel, channel is not null,
    share, prefix_key, deadline
from new
