-- Ends claimed requests: the queue rows whose epoch is still this owner's are deleted, and only their
-- results are stored. Returns each with the channel that waits for it as it is now, and whether
-- others follow it; an answer whose row is gone or claimed anew is dropped. A ghost has its result
-- already.
with answer as (
    select *
    from unnest(
        $2::uuid[], $3::integer[], $4::smallint[], $5::smallint[], $6::bytea[], $7::smallint[],
        $8::timestamptz[], $9::integer[], $10::integer[], $11::integer[], $12::text[],
        $15::integer[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[]
    ) as a(
        id, epoch, outcome, status_code, body, attempts, first_token_at, prompt_tokens,
        cached_tokens, completion_tokens, upstream, written_tokens, paid, saved_prefix,
        saved_window, saved_own
    )
), done as (
    delete from queue q
    using answer a
    where q.id = a.id and q.epoch = a.epoch
        and (q.owner = $1) is true -- no way to reach the rows by: a run may own thousands
    returning
        q.id, q.channel, q.claimed_at, q.team_id, q.key_id, q.model, q.streamed, q.batch_id,
        q.followed, q.ghost, a.epoch, a.outcome, a.status_code, a.body, a.attempts,
        a.first_token_at, a.prompt_tokens, a.cached_tokens, a.completion_tokens, a.upstream,
        a.written_tokens, a.paid, a.saved_prefix, a.saved_window, a.saved_own
), stored as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
        upstream, worker, run_id, started_at, first_token_at, prompt_tokens, cached_tokens,
        completion_tokens, batch_id, written_tokens, paid, saved_prefix, saved_window, saved_own
    )
    select
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, $13,
        upstream, $14, $1, claimed_at, first_token_at, prompt_tokens, cached_tokens,
        completion_tokens, batch_id, written_tokens, paid, saved_prefix, saved_window, saved_own
    from done
    where not ghost
), counted as (
    insert into deltas (
        team_id, model, backend, batch_id, completed, failed, cancelled, expired,
        prompt_tokens, cached_tokens, completion_tokens, paid, saved_prefix, saved_window,
        saved_own
    )
    select
        team_id, model, $13, batch_id,
        count(*) filter (where outcome = 0), count(*) filter (where outcome = 1),
        count(*) filter (where outcome = 2), count(*) filter (where outcome = 3),
        sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), sum(paid),
        sum(saved_prefix), sum(saved_window), sum(saved_own)
    from done
    where not ghost
    group by team_id, model, batch_id
)
select id, channel, followed, ghost from done
