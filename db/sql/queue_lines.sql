-- Queues lines of a batch, with the place where its file is to be read on, or nothing: the batch's row
-- is locked first, so that a cancel comes wholly before or after them.
--
-- One statement, where COPY would take several: a process that is stopped in the middle of a COPY
-- holds its locks until it goes on, for no time limit of the server reaches it there.
--
-- Of lines with the same twin the first leads, and the others wait for its answer (submit_twins).
with advanced as (
    update batches set ingested = ingested + $4, ingested_line = $5, ingested_bytes = $6
    where id = $1 and owner = $2 and ingested = $3 and status = 1
    returning id, team_id, key_id, endpoint, model, -priority as rank
), line as (
    select b.id as batch_id, b.team_id, b.key_id, b.endpoint, b.model, b.rank, n.*
    from advanced b
    cross join unnest(
        $7::uuid[], $8::text[], $9::bytea[], $10::text[], $11::smallint[], $12::bigint[],
        $13::uuid[]
    ) as n(id, person, body, custom_id, share, prefix_key, twin)
), stored as (
    insert into requests (
        id, team_id, key_id, person, class, endpoint, model, streamed, body, fingerprint, batch_id,
        custom_id
    )
    select
        id, team_id, key_id, person, 2, endpoint, model, false, body, id, batch_id, custom_id
    from line
), queued as (
    insert into queue (
        id, team_id, key_id, person, class, endpoint, model, streamed, batch_id, share, prefix_key,
        rank
    )
    select
        id, team_id, key_id, person, 2, endpoint, model, false, batch_id, share, prefix_key, rank
    from line
    where twin is null
), leader as (
    insert into queue (
        id, team_id, key_id, person, class, endpoint, model, streamed, batch_id, share, prefix_key,
        rank, twin, followed
    )
    select distinct on (twin)
        id, team_id, key_id, person, 2, endpoint, model, false, batch_id, share, prefix_key, rank,
        twin, count(*) over (partition by twin) > 1
    from line
    where twin is not null
    order by twin, id
    on conflict (twin) where twin is not null and leader is null
    do update set followed = true
    returning id, twin
), following as (
    insert into queue (
        id, team_id, key_id, person, class, endpoint, model, streamed, batch_id, share, prefix_key,
        rank, twin, leader, state
    )
    select
        n.id, n.team_id, n.key_id, n.person, 2, n.endpoint, n.model, false, n.batch_id, n.share,
        n.prefix_key, n.rank, n.twin, l.id, 4
    from line n join leader l on l.twin = n.twin
    where n.id <> l.id
)
select id from advanced
