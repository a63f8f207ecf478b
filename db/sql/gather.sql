-- Makes a provider batch of rows that wait, and makes them its own, in one transaction: batch rows in
-- the order of their prefix key and flex rows by age, a number of each (class, team, rank); where the
-- model's route cuts shares, those from $21 up to but without $22 (other rows count as -1). Where $23
-- is above 0, suspects that were lost so often: they can do the provider no harm.
--
-- Found, locked and reached as in claim_by_prefix; like a claim, it takes nothing for a run that was
-- ended, nor by routes that have changed. Streams, of which there are no more than clients that wait,
-- are passed over. Of the first $20 other rows of a group it takes those of one endpoint that have the
-- time which the window takes: those of the batches in $10, and, of rows by
-- themselves, those with a deadline from $11 on and before $12; of both those that are verbatim as $24
-- says. $25: the provider batch goes as background responses.
with taken as (
    update queue q
    set state = 1, owner_kind = 2, owner = $1, epoch = q.epoch + 1, claimed_at = now()
    where
        q.ctid = any(
            array(
                select picked.ctid
                from unnest(
                    $6::smallint[], $7::integer[], $8::smallint[], $9::integer[], $21::integer[],
                    $23::integer[]
                ) as pick(class, team_id, rank, take, share, lost)
                cross join lateral (
                    select looked.ctid
                    from (
                        select w.ctid, w.endpoint, w.batch_id, w.deadline, w.verbatim
                        from queue w
                        where
                            w.model = $4 and w.team_id = pick.team_id and w.rank = pick.rank
                            and w.state = 0 and w.class = 2 and w.share is null
                            and not w.streamed
                        order by w.prefix_key, w.id
                        limit $20
                        for update skip locked
                    ) looked
                    where
                        looked.endpoint = $5 and looked.verbatim = $24
                        and (
                            looked.batch_id = any($10::uuid[])
                            or looked.batch_id is null
                            and coalesce(looked.deadline, 'infinity') >= $11
                            and ($12::timestamptz is null or looked.deadline < $12)
                        )
                    limit pick.take
                ) picked
                where
                    pick.class = 2 and pick.share < 0 and pick.lost = 0
                    and exists (select from routing where version = $3)
            )
            || array(
                select picked.ctid
                from unnest(
                    $6::smallint[], $7::integer[], $9::integer[], $21::integer[], $23::integer[]
                ) as pick(class, team_id, take, share, lost)
                cross join lateral (
                    select looked.ctid
                    from (
                        select w.ctid, w.endpoint, w.deadline, w.verbatim
                        from queue w
                        where
                            w.model = $4 and w.class = 1 and w.team_id = pick.team_id
                            and w.state = 0 and w.share is null and not w.streamed
                        order by w.id
                        limit $20
                        for update skip locked
                    ) looked
                    where
                        looked.endpoint = $5 and looked.verbatim = $24
                        and coalesce(looked.deadline, 'infinity') >= $11
                        and ($12::timestamptz is null or looked.deadline < $12)
                    limit pick.take
                ) picked
                where
                    pick.class = 1 and pick.share < 0 and pick.lost = 0
                    and exists (select from routing where version = $3)
            )
            || array(
                select picked.ctid
                from unnest(
                    $6::smallint[], $7::integer[], $9::integer[], $21::integer[], $22::integer[],
                    $23::integer[]
                ) as pick(class, team_id, take, share, below, lost)
                cross join lateral (
                    select looked.ctid
                    from (
                        select w.ctid, w.endpoint, w.batch_id, w.deadline, w.verbatim
                        from queue w
                        where
                            w.model = $4 and w.class = pick.class and w.team_id = pick.team_id
                            and w.state = 0 and w.share is not null
                            and w.share >= pick.share and w.share < pick.below and not w.streamed
                        order by w.share, w.id
                        limit $20
                        for update skip locked
                    ) looked
                    where
                        looked.endpoint = $5 and looked.verbatim = $24
                        and (
                            looked.batch_id = any($10::uuid[])
                            or looked.batch_id is null
                            and coalesce(looked.deadline, 'infinity') >= $11
                            and ($12::timestamptz is null or looked.deadline < $12)
                        )
                    limit pick.take
                ) picked
                where
                    pick.share >= 0 and pick.lost = 0
                    and exists (select from routing where version = $3)
            )
            || array(
                select picked.ctid
                from unnest(
                    $6::smallint[], $7::integer[], $9::integer[], $21::integer[], $22::integer[],
                    $23::integer[]
                ) as pick(class, team_id, take, share, below, lost)
                cross join lateral (
                    select looked.ctid
                    from (
                        select w.ctid, w.endpoint, w.batch_id, w.deadline, w.verbatim
                        from queue w
                        where
                            w.state = 3 and w.model = $4 and w.lost = pick.lost
                            and w.class = pick.class and w.team_id = pick.team_id
                            and coalesce(w.share, -1) >= pick.share
                            and coalesce(w.share, -1) < pick.below and not w.streamed
                        order by w.id
                        limit $20
                        for update skip locked
                    ) looked
                    where
                        looked.endpoint = $5 and looked.verbatim = $24
                        and (
                            looked.batch_id = any($10::uuid[])
                            or looked.batch_id is null
                            and coalesce(looked.deadline, 'infinity') >= $11
                            and ($12::timestamptz is null or looked.deadline < $12)
                        )
                    limit pick.take
                ) picked
                where pick.lost > 0 and exists (select from routing where version = $3)
            )
        )
        and (select true from runs where id = $2 and ended_at is null for share)
    returning q.id
)
insert into provider_batches (
    id, backend, model, upstream, endpoint, completion_window, reason, deadline, lines, bytes,
    tokens, keeper, kept_until, background
)
select
    $1, $13, $4, $14, $5, $15, $16, $17, count(*), 0, 0, $18, now() + make_interval(secs => $19), $25
from taken
having count(*) > 0
returning lines
