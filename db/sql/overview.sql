-- All that an overview shows but what waits, as JSON, in one journey: the runs and processes that live
-- or died within the hour, what ended in the last 30 to 40 seconds (by whole steps of `activity`) and
-- today, the open batches, and which routing holds. Reads only what is small, whatever the tables hold.
select json_build_object(
    'at', extract(epoch from now()),
    'since', floor(extract(epoch from now() - interval '30 seconds') / 10) * 10,
    'version', (select version from routing),
    'runs', (
        select coalesce(json_agg(json_build_object(
            'id', r.id, 'backend', r.backend, 'process', r.process_id, 'in_flight', r.in_flight,
            'capacity', r.capacity, 'accepting', r.accepting,
            'patient', r.patience_seconds is not null, 'figures', r.figures
        ) order by r.id), '[]')
        from runs r where r.ended_at is null
    ),
    'processes', (
        select coalesce(json_agg(json_build_object(
            'id', p.id, 'kind', p.kind, 'backend', p.backend, 'paused', p.paused_at is not null,
            'dead_seconds', extract(epoch from now() - p.ended_at)
        ) order by p.id), '[]')
        from processes p
        where p.left_at is null
            and (p.ended_at is null or p.ended_at > now() - interval '1 hour')
    ),
    'recent', (
        select coalesce(json_agg(a), '[]') from (
            select
                model, sum(completed + failed) as requests,
                sum(completed) as completed, sum(failed + expired) as failed,
                sum(prompt_tokens) as prompt, sum(completion_tokens) as completion
            from activity
            where
                span_seconds = 10
                and at >= to_timestamp(
                    floor(extract(epoch from now() - interval '30 seconds') / 10) * 10
                )
            group by model
        ) a
    ),
    'today', (
        select json_build_object(
            'requests', coalesce(sum(completed + failed + cancelled + expired), 0),
            'failed', coalesce(sum(failed + expired), 0),
            'prompt', coalesce(sum(prompt_tokens), 0),
            'cached', coalesce(sum(cached_tokens), 0),
            'completion', coalesce(sum(completion_tokens), 0),
            'paid', coalesce(sum(paid), 0),
            'saved_shared', coalesce(sum(saved_shared), 0),
            'saved_cache', coalesce(sum(saved_cache), 0),
            'saved_prefix', coalesce(sum(saved_prefix), 0),
            'saved_window', coalesce(sum(saved_window), 0),
            'saved_own', coalesce(sum(saved_own), 0)
        )
        from (
            select
                completed, failed, cancelled, expired, prompt_tokens, cached_tokens,
                completion_tokens, paid, saved_shared, saved_cache, saved_prefix, saved_window,
                saved_own
            from totals where day = (now() at time zone 'utc')::date
            union all
            select
                completed, failed, cancelled, expired, prompt_tokens, cached_tokens,
                completion_tokens, paid, saved_shared, saved_cache, saved_prefix, saved_window,
                saved_own
            from deltas where day = (now() at time zone 'utc')::date
        ) ended
    ),
    'batches', (
        select json_build_object(
            'open', count(*),
            'lines', coalesce(sum(b.total), 0),
            'done', coalesce(sum(c.completed + c.failed + c.cancelled + c.expired), 0),
            'statuses', coalesce(sum(b.status), 0),
            'last', (select id from batches order by id desc limit 1)
        )
        from batches b left join batch_counts c on c.batch_id = b.id
        where b.status < 4 and not b.dry_run
    ),
    'providers', (
        select coalesce(json_object_agg(backend, lines), '{}') from (
            select backend, sum(lines) as lines from provider_batches where state < 3
            group by backend
        ) open
    )
)::text as seen
