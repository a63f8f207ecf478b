-- Ends requests from outside of a run: cancelled, expired, abandoned or condemned ones. Whatever
-- their state, the queue row goes and a result takes its place; the owner, if any, must be told. With
-- $6 only those are ended whose client has still not come back. One that is cancelled or expires while
-- others follow it stays in the queue as a ghost: its work goes on for them; so does one whose stream was
-- interrupted. A ghost has its result already; it goes only where it killed its engine ($7).
with asked as (
    select id from unnest($1::uuid[]) as e(id)
), kept as (
    update queue q
    set ghost = true, abandon_at = null, deadline = null
    from asked a
    where
        q.id = a.id and not q.ghost and ($2::integer is null or q.team_id = $2)
        and (not $6::boolean or q.abandon_at <= now())
        and not $7 and q.followed and exists (select from queue f where f.leader = q.id)
    returning
        q.id, q.channel, null::uuid as owner, q.owner as holder, q.claimed_at, q.team_id,
        q.key_id, q.model, q.streamed, q.batch_id, q.epoch, q.attempts, false as had_result
), gone as (
    delete from queue q
    using asked a
    where
        q.id = a.id and (not q.ghost or $7) and ($2::integer is null or q.team_id = $2)
        and (not $6::boolean or q.abandon_at <= now())
        and not (not $7 and q.followed and exists (select from queue f where f.leader = q.id))
    returning
        q.id, q.channel, q.owner, q.owner as holder, q.claimed_at, q.team_id, q.key_id, q.model,
        q.streamed, q.batch_id, q.epoch, q.attempts, q.ghost as had_result
), ended as (
    select * from kept union all select * from gone where not had_result
), stored as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
        worker, run_id, started_at, batch_id
    )
    select
        e.id, e.team_id, e.key_id, e.model, $3, $4, $5, e.streamed, e.epoch, e.attempts, r.backend,
        r.worker, r.id, e.claimed_at, e.batch_id
    from ended e left join runs r on r.id = e.holder
), counted as (
    insert into deltas (
        team_id, model, backend, batch_id, completed, failed, cancelled, expired,
        prompt_tokens, cached_tokens, completion_tokens
    )
    select
        team_id, model, null, batch_id, 0, count(*) filter (where $3 = 1),
        count(*) filter (where $3 = 2), count(*) filter (where $3 = 3), 0, 0, 0
    from ended
    group by team_id, model, batch_id
)
select id, channel, owner, epoch from ended
