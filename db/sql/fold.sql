-- Sums up to $1 deltas into the totals of today, and removes them: one folder at a time.
with taken as (
    delete from deltas
    where seq = any(array(select seq from deltas order by seq limit $1 for update skip locked))
    returning *
)
insert into totals as t (
    day, team_id, model, backend, completed, failed, cancelled, expired,
    prompt_tokens, cached_tokens, completion_tokens
)
select
    (now() at time zone 'utc')::date, team_id, model, coalesce(backend, ''), sum(completed),
    sum(failed), sum(cancelled), sum(expired), sum(prompt_tokens), sum(cached_tokens),
    sum(completion_tokens)
from taken
group by team_id, model, coalesce(backend, '')
on conflict (day, team_id, model, backend) do update set
    completed = t.completed + excluded.completed,
    failed = t.failed + excluded.failed,
    cancelled = t.cancelled + excluded.cancelled,
    expired = t.expired + excluded.expired,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    cached_tokens = t.cached_tokens + excluded.cached_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens
