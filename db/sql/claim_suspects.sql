-- Claims rows of one (model, class, team) that were lost with their runs, all lost equally often,
-- oldest first, of a range of shares; what has no share counts as -1. With $13, those whose deadline
-- is before it. Suspects are few.
update queue q
set state = 1, owner_kind = $7, owner = $6, epoch = q.epoch + 1, claimed_at = now()
where
    q.ctid = any(array(
        select w.ctid
        from queue w
        where
            w.state = 3 and w.model = $3 and w.lost = $4 and w.class = $8 and w.team_id = $9
            and coalesce(w.share, -1) between $10::integer and $11::integer - 1 and w.id < $12
            and ($13::timestamptz is null or w.deadline < $13)
        order by w.id
        limit $5
        for update skip locked
    ))
    and exists (select from routing where version = $2)
    and (select true from runs where id = $1 and ended_at is null for share)
returning
    q.id, q.epoch, q.team_id, q.class, q.endpoint, q.model, q.streamed, q.attempts, q.lost,
    q.channel, q.prefix_key, q.share, q.rank,
    case when not q.ghost then q.batch_id end as batch_id, q.deadline, q.followed
