-- What requests from day $2 to day $3 cost and saved, of team $1 (all where it is null), by $4. Reads
-- the totals, and the deltas that are not in them yet; a group of them without any money but
-- with tokens had no list price.
select
    case $4
        when 'model' then model
        when 'team' then team_id::text
        when 'backend' then backend
        else day::text
    end as key,
    sum(completed)::bigint as requests,
    coalesce(sum(completed) filter (
        where paid + saved_shared + saved_cache + saved_prefix + saved_window + saved_own = 0
            and prompt_tokens + completion_tokens > 0
    ), 0)::bigint as unpriced,
    sum(prompt_tokens)::bigint as prompt, sum(cached_tokens)::bigint as cached,
    sum(completion_tokens)::bigint as completion, sum(paid)::bigint as paid,
    sum(saved_shared)::bigint as saved_shared, sum(saved_cache)::bigint as saved_cache,
    sum(saved_prefix)::bigint as saved_prefix, sum(saved_window)::bigint as saved_window,
    sum(saved_own)::bigint as saved_own
from (
    select
        day, team_id, model, backend, completed, prompt_tokens, cached_tokens, completion_tokens,
        paid, saved_shared, saved_cache, saved_prefix, saved_window, saved_own
    from totals
    union all
    select
        day, team_id, model, coalesce(backend, ''), completed, prompt_tokens, cached_tokens,
        completion_tokens, paid, saved_shared, saved_cache, saved_prefix, saved_window, saved_own
    from deltas
) counted
where ($1::integer is null or team_id = $1) and day between $2 and $3
group by key
order by key
