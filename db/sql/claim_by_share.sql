-- Claims rows of a range of shares, a number for each (model, class, team), in a walk over (share,
-- id) from the run's own cursor on. Locks and shape are those of claim_by_age.
update queue q
set state = 1, owner_kind = $11, owner = $10, epoch = q.epoch + 1, claimed_at = now()
where
    q.ctid = any(array(
        select picked.ctid
        from unnest(
            $3::text[], $4::smallint[], $5::integer[], $6::integer[], $7::integer[], $8::uuid[],
            $9::integer[]
        ) as pick(model, class, team_id, below, after_key, after, take)
        cross join lateral (
            select w.ctid
            from queue w
            where
                w.model = pick.model and w.class = pick.class and w.team_id = pick.team_id
                and w.state = 0 and w.share is not null
                and (w.share, w.id) > (pick.after_key::smallint, pick.after)
                and w.share < pick.below
            order by w.share, w.id
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
