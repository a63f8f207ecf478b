-- Returns claimed requests that failed for a passing reason to the queue, to wait for a while, and
-- keeps what happened as attempts. A rate limit is kept too, and does not count as one of them.
with failed as (
    select *
    from unnest($2::uuid[], $3::integer[], $4::float8[], $5::text[], $8::boolean[])
        as f(id, epoch, delay_seconds, error, counts)
), returned as (
    update queue q
    set
        state = 2, owner_kind = 0, owner = null,
        attempts = q.attempts + f.counts::integer,
        not_before = now() + make_interval(secs => f.delay_seconds)
    from failed f
    where q.id = f.id and q.epoch = f.epoch
        and (q.owner = $1) is true -- no way to reach the rows by
    returning q.id, q.team_id, q.key_id, q.epoch, q.claimed_at, f.error, f.counts
), noted as (
    insert into attempts (
        id, team_id, key_id, epoch, outcome, error, backend, worker, run_id, started_at
    )
    select
        id, team_id, key_id, epoch, case when counts then 'failed' else 'limited' end, error, $6, $7,
        $1, claimed_at
    from returned
)
select id from returned
