-- Learns a model's limits and what the provider says is left of them; the levels only move down.
-- Where a level was not known, the $7 calls of $8 tokens that are under way are taken off it.
-- `least` and `greatest` pass over null.
insert into model_limits as m (
    backend, upstream, requests_limit, requests_left, tokens_limit, tokens_left, observed_at
)
values (
    $1, $2, $3::float8,
    case when $4::float8 is not null then greatest(0, $4 - $7::float8) end,
    $5::float8,
    case when $6::float8 is not null then greatest(0, $6 - $7::float8 * $8::float8) end,
    clock_timestamp()
)
on conflict (backend, upstream) do update set
    requests_limit = coalesce(excluded.requests_limit, m.requests_limit),
    requests_left = case
        when m.requests_left is null then excluded.requests_left
        else least(
            m.requests_limit, $4,
            m.requests_left + m.requests_limit / 60
                * greatest(0, extract(epoch from excluded.observed_at - m.observed_at)::float8)
        )
    end,
    tokens_limit = coalesce(excluded.tokens_limit, m.tokens_limit),
    tokens_left = case
        when m.tokens_left is null then excluded.tokens_left
        else least(
            m.tokens_limit, $6,
            m.tokens_left + m.tokens_limit / 60
                * greatest(0, extract(epoch from excluded.observed_at - m.observed_at)::float8)
        )
    end,
    observed_at = greatest(excluded.observed_at, m.observed_at)
