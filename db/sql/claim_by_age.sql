-- Claims rows in the order of their age, a number for each (model, class, team), each from a cursor
-- on and up to a bound, by which those that are too young are left out. What goes on for its followers
-- alone, a ghost, is its batch's no more.
--
-- The rows are found, locked and then reached by ctid: joined back by id, the planner hashes the
-- whole queue (474 ms at three million rows against 6). The live run is share-locked, so that one
-- that the sweep has ended claims nothing more; and what was planned by routes that have changed
-- since claims nothing.
update queue q
set state = 1, owner_kind = $9, owner = $8, epoch = q.epoch + 1, claimed_at = now()
where
    q.ctid = any(array(
        select picked.ctid
        from unnest($3::text[], $4::smallint[], $5::integer[], $6::uuid[], $7::integer[], $10::uuid[])
            as pick(model, class, team_id, after, take, before)
        cross join lateral (
            select w.ctid
            from queue w
            where
                w.model = pick.model and w.class = pick.class and w.team_id = pick.team_id
                and w.state = 0 and w.share is null
                and w.id > pick.after and w.id < pick.before
            order by w.id
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
