-- Returns up to $2 rows of an owner that is dead, counts the loss, and keeps it as attempts.
--
-- After two losses a row is a suspect. One that was alone with its engine at the third has killed
-- it, and is left to `condemned`, which the caller fails. A stream whose client listens waits for
-- $3 seconds: the API that has sent tokens of it must end it first.
with owned as (
    select q.id from queue q where q.owner = $1 order by q.id limit $2 for update
), size as (
    select count(*) as rows from queue q where q.owner = $1
), lost as (
    update queue q
    set
        owner_kind = 0, owner = null, epoch = q.epoch + 1, lost = q.lost + 1,
        state = case
            when q.streamed and q.channel is not null and q.lost < 1 then 2
            when q.lost >= 1 then 3
            else 0
        end,
        not_before = case
            when q.streamed and q.channel is not null then now() + make_interval(secs => $3)
        end
    from owned
    where q.id = owned.id
    returning
        q.id, q.epoch, q.claimed_at, q.lost, q.model, q.class, q.team_id, q.rank, q.key_id,
        q.channel, q.streamed, q.state, q.share
), noted as (
    insert into attempts (
        id, team_id, key_id, epoch, outcome, error, backend, worker, run_id, started_at
    )
    select
        l.id, l.team_id, l.key_id, l.epoch - 1, 'lost', 'the run died', r.backend, r.worker, $1,
        l.claimed_at
    from lost l left join runs r on r.id = $1
)
select
    l.id, l.epoch, l.model, l.class, l.team_id, l.rank, l.channel, l.streamed, l.state, l.share,
    l.lost >= 3 and size.rows = 1 as condemned
from lost l cross join size
