-- Gives the followers of requests that have just been answered the same answer: each gets a result of
-- its own, under the leader's epoch as followers know it, and leaves the queue. What a ghost has cost is
-- put down to the first of its followers. Whoever began to follow before the leader's row went is found, for this begins after that.
with answer as (
    select *
    from unnest(
        $1::uuid[], $2::boolean[], $3::smallint[], $4::bytea[], $5::text[], $6::integer[],
        $7::integer[], $8::integer[], $9::integer[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::bigint[], $17::integer[]
    ) as a(
        leader, ghost, status_code, body, upstream, prompt_tokens, cached_tokens, written_tokens,
        completion_tokens, paid, saved_prefix, saved_window, saved_own, epoch
    )
), done as (
    delete from queue q
    using answer a
    where
        q.ctid = any(array(
            select f.ctid
            from unnest($1::uuid[]) as l(id)
            cross join lateral (
                select w.ctid from queue w where w.leader = l.id and w.state = 4 for update
            ) f
        ))
        and (q.leader = a.leader) is true -- no way to reach the rows by
    returning
        q.id, q.channel, q.team_id, q.key_id, q.model, q.streamed, q.attempts,
        q.batch_id, a.*
), charged as (
    select *, ghost and row_number() over (partition by leader order by id) = 1 as pays
    from done
), booked as (
    select
        c.id, c.leader, c.epoch, c.channel, c.team_id, c.key_id, c.model, c.streamed, c.attempts,
        c.batch_id, c.status_code, c.body, c.upstream,
        case when pays then prompt_tokens else 0 end as prompt_tokens,
        case when pays then cached_tokens else 0 end as cached_tokens,
        case when pays then written_tokens else 0 end as written_tokens,
        case when pays then completion_tokens else 0 end as completion_tokens,
        case when pays then paid else 0 end as paid,
        case when pays then 0 else paid + saved_prefix + saved_window + saved_own end
            as saved_shared,
        case when pays then saved_prefix else 0 end as saved_prefix,
        case when pays then saved_window else 0 end as saved_window,
        case when pays then saved_own else 0 end as saved_own
    from charged c
), stored as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
        upstream, worker, run_id, batch_id, prompt_tokens, cached_tokens, written_tokens,
        completion_tokens, paid, saved_shared, saved_prefix, saved_window, saved_own
    )
    select
        id, team_id, key_id, model, 0, status_code, body, streamed, epoch, attempts, $14,
        upstream, $15, $16, batch_id, prompt_tokens, cached_tokens, written_tokens,
        completion_tokens, paid, saved_shared, saved_prefix, saved_window, saved_own
    from booked
), counted as (
    insert into deltas (
        team_id, model, backend, batch_id, completed, failed, cancelled, expired, prompt_tokens,
        cached_tokens, completion_tokens, paid, saved_shared, saved_prefix, saved_window,
        saved_own
    )
    select
        team_id, model, $14, batch_id, count(*), 0, 0, 0, sum(prompt_tokens), sum(cached_tokens),
        sum(completion_tokens), sum(paid), sum(saved_shared), sum(saved_prefix),
        sum(saved_window), sum(saved_own)
    from booked
    group by team_id, model, batch_id
)
select id, leader, epoch, channel, streamed, upstream from booked
