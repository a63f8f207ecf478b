"""What puts right whatever a dead process left behind; each step is one short transaction.

The order matters: a run is ended first, so that it can claim nothing more (its claims share-lock
its row), and its rows are returned by a later statement, which sees all that it had claimed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from carpool.metrics import LOST_RUNS
from carpool.notices import Gone, Lost, Waiting
from carpool.states import QueueState
from db.database import Fetches
from db.end import ABANDONED, CONDEMNED, EXPIRED, Ended, Ending, end_requests
from db.follow import STREAM_DELAY_SECONDS, Followed, sweep_followers
from db.sql import load

LOSE = load("lose")
# By a moment from before: a statement that lay in its socket while Postgres stood still would take
# all for dead, whose hearts stood still with it.
END_DEAD_PROCESSES = """
update processes set ended_at = now()
where ended_at is null and heartbeat_at < $2::timestamptz - make_interval(secs => $1)
"""
ENDED_PROCESSES = "select id from processes where ended_at is not null and settled_at is null"
# A client that waited at a dead API process may come back within the grace.
ORPHAN = """
update queue set
    channel = null,
    abandon_at = case when awaited then now() + make_interval(secs => $2) end
where channel = any($1::uuid[])
"""
SETTLE_PROCESSES = """
update processes set settled_at = now() where id = any($1::uuid[]) and ended_at is not null
"""
# One that died is shown for a while, one that left in order is not. A drain is kept for a day, for
# whoever comes in its place (see db.processes).
FORGET_PROCESSES = """
delete from processes
where settled_at is not null
    and (left_at is not null or ended_at < now() - interval '1 hour')
    and (paused_at is null or ended_at < now() - interval '1 day')
"""
END_DEAD_RUNS = """
update runs set ended_at = now(), in_flight = 0
where ended_at is null and (
    heartbeat_at < $2::timestamptz - make_interval(secs => $1)
    or not exists (
        select from processes p where p.id = runs.process_id and p.ended_at is null
    )
)
returning id, backend
"""
# Distinct owners by a skip scan; those without a live run are dead.
DEAD_OWNERS = """
with recursive owners as (
    (select owner from queue where owner is not null order by owner limit 1)
    union all
    select (select q.owner from queue q where q.owner > o.owner order by q.owner limit 1)
    from owners o where o.owner is not null
)
select o.owner from owners o
where o.owner is not null
    and not exists (select from runs r where r.id = o.owner and r.ended_at is null)
    and (select q.owner_kind from queue q where q.owner = o.owner limit 1) = 1
"""
PROMOTE = """
update queue set not_before = null, state = case when lost >= 2 then 3 else 0 end
where ctid = any(array(
    select ctid from queue where state = 2 and not_before <= now()
    order by not_before limit $1 for update skip locked
))
returning model, class, team_id, rank, share
"""
OVERDUE = "select id from queue where deadline <= now() order by deadline limit $1"
FORSAKEN = "select id from queue where abandon_at <= now() order by abandon_at limit $1"
# Subqueries with a limit, for of `exists` the planner may make a hash of all that waits (91 ms at
# 240,000 rows).
UNSERVED = """
select r.backend from served r
where (
        select true from queue q
        where q.model = r.model and q.state = 0 and q.share is null limit 1
    )
    or (
        select true from queue q
        where q.model = r.model and q.state = 0 and q.share is not null limit 1
    )
    or (select true from queue q where q.model = r.model and q.state = 3 limit 1)
group by r.backend
having not exists (
    select from runs live where live.backend = r.backend and live.ended_at is null
)
"""
FORGET_RUNS = "delete from runs where ended_at < now() - interval '7 days'"

CHUNK_ROWS = 2000
"""How many rows one transaction changes at most, so that none lasts long."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one round did, for those who must be told."""

    waiting: list[Waiting]
    lost: list[tuple[UUID, Lost]]
    """Streams that begin anew, with the channel that waits for them."""
    ended: list[Ended]
    unserved: list[str]
    """Backends for whose models work waits, and that no run serves."""
    dead_runs: list[UUID]
    followed: list[Followed]
    gone: list[tuple[UUID, Gone]]
    """Claims that nobody needs any more, with the run that holds each."""


async def sweep(
    database: Fetches, *, now: datetime, lease_seconds: float, grace_seconds: float
) -> Swept:
    """One round; ``now`` is the database's. Whatever a crash leaves undone, the next round does."""
    swept = Swept([], [], [], [], [], [], [])
    await database.fetch(END_DEAD_PROCESSES, lease_seconds, now)
    rows = await database.fetch(END_DEAD_RUNS, lease_seconds, now)
    for row in rows:
        swept.dead_runs.append(row["id"])
        LOST_RUNS.labels(row["backend"]).inc()
    for row in await database.fetch(DEAD_OWNERS):
        await _return_rows(database, row["owner"], swept)
    await _forget_processes(database, grace_seconds)
    promoted = await database.fetch(PROMOTE, CHUNK_ROWS)
    swept.waiting.extend(_groups(promoted))
    swept.ended.extend(await _end(database, OVERDUE, EXPIRED))
    swept.ended.extend(await _end(database, FORSAKEN, ABANDONED))
    orphans = await sweep_followers(database)
    swept.waiting.extend(orphans.waiting)
    swept.lost.extend(orphans.lost)
    swept.followed.extend(orphans.answered)
    swept.gone.extend(orphans.gone)
    swept.unserved.extend(row["backend"] for row in await database.fetch(UNSERVED))
    return swept


async def _forget_processes(database: Fetches, grace_seconds: float) -> None:
    ended = [row["id"] for row in await database.fetch(ENDED_PROCESSES)]
    if ended:
        await database.fetch(ORPHAN, ended, grace_seconds)
        await database.fetch(SETTLE_PROCESSES, ended)
    await database.fetch(FORGET_PROCESSES)


async def _return_rows(database: Fetches, owner: UUID, swept: Swept) -> None:
    first = True
    while True:
        rows = await database.fetch(LOSE, owner, CHUNK_ROWS, STREAM_DELAY_SECONDS)
        swept.lost.extend(
            (row["channel"], Lost(row["id"], row["epoch"]))
            for row in rows
            if row["streamed"] and row["channel"] is not None
        )
        swept.waiting.extend(
            _groups([row for row in rows if row["state"] != QueueState.BACKING_OFF])
        )
        condemned = [row["id"] for row in rows if row["condemned"] and first]
        if condemned:
            swept.ended.extend(await end_requests(database, condemned, CONDEMNED))
        if len(rows) < CHUNK_ROWS:
            return
        first = False


async def _end(database: Fetches, query: str, ending: Ending) -> list[Ended]:
    rows = await database.fetch(query, CHUNK_ROWS)
    if not rows:
        return []
    return await end_requests(database, [row["id"] for row in rows], ending)


def _groups(rows: Sequence[dict[str, object]]) -> list[Waiting]:
    groups = {
        (row["model"], row["class"], row["team_id"], row["rank"], row["share"]) for row in rows
    }
    return [Waiting(*group) for group in groups]  # type: ignore[arg-type]
