-- Learns a backend's limits and what the provider says is left of them; the levels only move down.
-- Where a level was not known, the $6 calls of $7 tokens that are under way are taken off it.
-- `least` and `greatest` pass over null.
insert into rate_limits as r (
    backend, requests_limit, requests_left, tokens_limit, tokens_left, observed_at
)
values (
    $1, $2::float8,
    case when $3::float8 is not null then greatest(0, $3 - $6::float8) end,
    $4::float8,
    case when $5::float8 is not null then greatest(0, $5 - $6::float8 * $7::float8) end,
    clock_timestamp()
)
on conflict (backend) do update set
    requests_limit = coalesce(excluded.requests_limit, r.requests_limit),
    requests_left = case
        when r.requests_left is null then excluded.requests_left
        else least(
            r.requests_limit, $3,
            r.requests_left + r.requests_limit / 60
                * greatest(0, extract(epoch from excluded.observed_at - r.observed_at)::float8)
        )
    end,
    tokens_limit = coalesce(excluded.tokens_limit, r.tokens_limit),
    tokens_left = case
        when r.tokens_left is null then excluded.tokens_left
        else least(
            r.tokens_limit, $5,
            r.tokens_left + r.tokens_limit / 60
                * greatest(0, extract(epoch from excluded.observed_at - r.observed_at)::float8)
        )
    end,
    observed_at = greatest(excluded.observed_at, r.observed_at)
