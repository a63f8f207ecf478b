-- Claims rows that have a deadline of their own in its order, a number for each (model, class, team),
-- each from a cursor (deadline, id) on and up to a bound. Locks and shape are those of claim_by_age.
update queue q
set state = 1, owner_kind = $10, owner = $9, epoch = q.epoch + 1, claimed_at = now()
where
    q.ctid = any(array(
        select picked.ctid
        from unnest(
            $3::text[], $4::smallint[], $5::integer[], $6::timestamptz[], $7::uuid[],
            $8::integer[], $11::timestamptz[]
        ) as pick(model, class, team_id, after_deadline, after, take, before)
        cross join lateral (
            select w.ctid
            from queue w
            where
                w.model = pick.model and w.class = pick.class and w.team_id = pick.team_id
                and w.state = 0 and w.deadline is not null
                and (w.deadline, w.id) > (pick.after_deadline, pick.after)
                and w.deadline < pick.before
            order by w.deadline, w.id
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
