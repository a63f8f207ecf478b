-- Claims batch rows in the order of their prefix key, a number for each (model, team, rank), each from
-- the run's own cursor on. Locks and shape are those of claim_by_age.
update queue q
set state = 1, owner_kind = $10, owner = $9, epoch = q.epoch + 1, claimed_at = now()
where
    q.ctid = any(array(
        select picked.ctid
        from unnest(
            $3::text[], $4::integer[], $5::smallint[], $6::bigint[], $7::uuid[], $8::integer[]
        ) as pick(model, team_id, rank, after_key, after, take)
        cross join lateral (
            select w.ctid
            from queue w
            where
                w.model = pick.model and w.team_id = pick.team_id and w.rank = pick.rank
                and w.state = 0 and w.class = 2 and w.share is null
                and (w.prefix_key, w.id) > (pick.after_key, pick.after)
            order by w.prefix_key, w.id
            limit pick.take
            for update skip locked
        ) picked
        where exists (select from routing where version = $2)
    ))
    and (select true from runs where id = $1 and ended_at is null for share)
returning
    q.id, q.epoch, q.team_id, q.class, q.endpoint, q.model, q.streamed, q.attempts, q.lost,
    q.channel, q.prefix_key, q.share, q.rank,
    case when not q.ghost then q.batch_id end as batch_id, q.deadline, q.followed
