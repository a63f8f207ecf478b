-- Sums up to $1 deltas into the totals of their days, the activity of these 10 seconds (or the last ones
-- of an earlier day) and the counts of their batches, and removes them: one folder at a time. Returns
-- the batches that have new counts.
with taken as (
    delete from deltas
    where
        (select pg_try_advisory_xact_lock(1718578276))
        and seq = any(array(select seq from deltas order by seq limit $1 for update skip locked))
    returning *
), grouped as materialized (
    select
        day, team_id, model, coalesce(backend, '') as backend, sum(completed) as completed,
        sum(failed) as failed, sum(cancelled) as cancelled, sum(expired) as expired,
        sum(prompt_tokens) as prompt_tokens, sum(cached_tokens) as cached_tokens,
        sum(completion_tokens) as completion_tokens, sum(paid) as paid,
        sum(saved_shared) as saved_shared, sum(saved_cache) as saved_cache,
        sum(saved_prefix) as saved_prefix, sum(saved_window) as saved_window,
        sum(saved_own) as saved_own
    from taken
    group by day, team_id, model, coalesce(backend, '')
), moved as (
    insert into activity as a (
        span_seconds, at, team_id, model, backend, completed, failed, cancelled, expired,
        prompt_tokens, cached_tokens, completion_tokens
    )
    select
        10,
        greatest(
            day::timestamp at time zone 'utc', -- of a clock that stands before it: no two days meet
            least(
                to_timestamp(floor(extract(epoch from now()) / 10) * 10),
                (day + 1)::timestamp at time zone 'utc' - interval '10 seconds'
            )
        ),
        team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens,
        cached_tokens, completion_tokens
    from grouped
    on conflict (span_seconds, at, team_id, model, backend) do update set
        completed = a.completed + excluded.completed,
        failed = a.failed + excluded.failed,
        cancelled = a.cancelled + excluded.cancelled,
        expired = a.expired + excluded.expired,
        prompt_tokens = a.prompt_tokens + excluded.prompt_tokens,
        cached_tokens = a.cached_tokens + excluded.cached_tokens,
        completion_tokens = a.completion_tokens + excluded.completion_tokens
), summed as (
    insert into totals as t (
        day, team_id, model, backend, completed, failed, cancelled, expired,
        prompt_tokens, cached_tokens, completion_tokens,
        paid, saved_shared, saved_cache, saved_prefix, saved_window, saved_own
    )
    select
        day, team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens,
        cached_tokens, completion_tokens, paid, saved_shared, saved_cache, saved_prefix,
        saved_window, saved_own
    from grouped
    on conflict (day, team_id, model, backend) do update set
        completed = t.completed + excluded.completed,
        failed = t.failed + excluded.failed,
        cancelled = t.cancelled + excluded.cancelled,
        expired = t.expired + excluded.expired,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        paid = t.paid + excluded.paid,
        saved_shared = t.saved_shared + excluded.saved_shared,
        saved_cache = t.saved_cache + excluded.saved_cache,
        saved_prefix = t.saved_prefix + excluded.saved_prefix,
        saved_window = t.saved_window + excluded.saved_window,
        saved_own = t.saved_own + excluded.saved_own
)
insert into batch_counts as c (
    batch_id, completed, failed, cancelled, expired, prompt_tokens, cached_tokens,
    completion_tokens
)
select
    batch_id, sum(completed), sum(failed), sum(cancelled), sum(expired), sum(prompt_tokens),
    sum(cached_tokens), sum(completion_tokens)
from taken
where batch_id is not null
group by batch_id
order by batch_id
on conflict (batch_id) do update set
    completed = c.completed + excluded.completed,
    failed = c.failed + excluded.failed,
    cancelled = c.cancelled + excluded.cancelled,
    expired = c.expired + excluded.expired,
    prompt_tokens = c.prompt_tokens + excluded.prompt_tokens,
    cached_tokens = c.cached_tokens + excluded.cached_tokens,
    completion_tokens = c.completion_tokens + excluded.completion_tokens
returning batch_id
