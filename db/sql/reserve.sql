-- Takes up to $3 calls of about $4 tokens each off the budgets of a backend's models $2; returns of
-- each model how many, the seconds after which one more may be had, and whether any limit is known.
--
-- Each row is locked before the clock is read: whoever waited for it sees the level as the other
-- left it, and counts the time since then once. They are locked in one order, for others lock some
-- of the same. `least` and `greatest` pass over null, which is what an unknown limit is. A bucket
-- holds the refill of a second less than its limit: the provider counts a call a moment later than
-- we, and while its bucket is full, that does not refill in this moment as ours does. A call that is
-- larger than the whole bucket goes when the bucket is full.
with asked as (
    select * from unnest($2::text[], $3::float8[], $4::float8[]) as a(upstream, wanted, tokens_each)
), budget as (
    select * from model_limits where backend = $1 and upstream = any($2) order by upstream
    for update
), timed as (
    select
        budget.*, asked.wanted, asked.tokens_each as tokens_wanted,
        greatest(clock_timestamp(), observed_at) as clock
    from budget join asked using (upstream)
), level as (
    select
        upstream,
        wanted,
        clock,
        coalesce(extract(epoch from paused_until - clock)::float8, 0) as pause,
        requests_limit / 60 as request_rate,
        tokens_limit / 60 as token_rate,
        least(tokens_wanted, tokens_limit * 59 / 60) as tokens_each,
        requests_limit is not null or tokens_limit is not null as limited,
        least(
            requests_limit - least(requests_limit / 60, requests_limit - 1),
            requests_left + requests_limit / 60 * extract(epoch from clock - observed_at)::float8
        ) as requests,
        least(
            tokens_limit * 59 / 60,
            tokens_left + tokens_limit / 60 * extract(epoch from clock - observed_at)::float8
        ) as tokens
    from timed
), granted as (
    select
        level.*,
        case
            when pause > 0 then 0
            else greatest(0, floor(least(wanted, requests, tokens / nullif(tokens_each, 0))))
        end as number
    from level
), taken as (
    update model_limits m
    set
        requests_left = g.requests - g.number,
        tokens_left = g.tokens - g.number * g.tokens_each,
        observed_at = g.clock
    from granted g
    where m.backend = $1 and m.upstream = g.upstream and g.number > 0
)
select
    asked.upstream,
    coalesce(g.number, asked.wanted)::integer as number,
    case when g.number = 0 then
        greatest(
            0, g.pause, (1 - g.requests) / g.request_rate, (g.tokens_each - g.tokens) / g.token_rate
        )
    else 0 end as wait_seconds,
    coalesce(g.limited, false) as limited
from asked left join granted g using (upstream)
