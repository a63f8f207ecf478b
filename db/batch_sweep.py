"""What moves batches on without a client and without a job: folding, completion, expiry, cancel."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from carpool.ids import line_bounds
from carpool.states import BatchStatus, Outcome
from db.database import Fetches
from db.end import Ended, Ending, end_requests
from db.sql import load

FOLD = load("fold")
COMPLETE = """
update batches b set status = 2, finalizing_at = now()
from batch_counts c
where c.batch_id = b.id and b.status = 1 and b.ingested = b.total
    and c.completed + c.failed + c.cancelled + c.expired >= b.total
    and b.id in (select id from batches where status < 4)
returning b.id
"""
EXPIRE = """
update batches set
    status = case when status = 0 then 6 else 2 end, expiring = true,
    expired_at = case when status = 0 then now() end,
    finalizing_at = case when status = 1 then now() end
where status in (0, 1) and expires_at <= now()
    and id in (select id from batches where status < 4)
returning id
"""
STOPPED = """
select id, status from batches where status < 4 and (status = 3 or (status = 2 and expiring))
"""
LEFT = """
select id from queue where id > $1 and id <= $2 order by id limit $3
"""
# Whose job has an owner that lives needs none; nor does one whose lines are all queued and still at
# work.
IDLE = """
select b.id from batches b
where b.status < 4 and not (b.status = 1 and b.ingested = b.total)
    and (
        b.owner is null
        or not exists (select from processes p where p.id = b.owner and p.ended_at is null)
    )
"""

OPEN = "select 1 from batches where status < 4 limit 1"

FOLD_ROWS = 20_000
CHUNK_ROWS = 2000
CHUNKS = 10
"""How many chunks of one batch a round ends at most, so that it does not last long."""

BATCH_CANCELLED = Ending(
    outcome=Outcome.CANCELLED,
    status=409,
    code="batch_cancelled",
    message="This request was not executed, for its batch was cancelled.",
)
BATCH_EXPIRED = Ending(
    outcome=Outcome.EXPIRED,
    status=408,
    code="batch_expired",
    message="This request could not be executed before the completion window expired.",
)


@dataclass(frozen=True, slots=True)
class SweptBatches:
    """What one round did and found."""

    changed: list[UUID]
    """Batches with another status or other counts."""
    ended: list[Ended]
    idle: list[UUID]
    """Batches that need a job and have none."""


async def fold(database: Fetches) -> tuple[list[UUID], list[UUID]]:
    """Sum the deltas up; the batches with new counts, and those that are complete with them."""
    changed = [row["batch_id"] for row in await database.fetch(FOLD, FOLD_ROWS)]
    completed = [row["id"] for row in await database.fetch(COMPLETE)]
    return changed, completed


async def any_open(database: Fetches) -> bool:
    """Whether a batch is open, whose counts are watched."""
    return bool(await database.fetch(OPEN))


async def sweep_batches(database: Fetches) -> SweptBatches:
    """One round. Whatever of it a crash leaves undone, the next round does."""
    expired = [row["id"] for row in await database.fetch(EXPIRE)]
    ended: list[Ended] = []
    for row in await database.fetch(STOPPED):
        cancelled = row["status"] == BatchStatus.CANCELLING
        ended += await _end_lines(
            database, row["id"], BATCH_CANCELLED if cancelled else BATCH_EXPIRED
        )
    changed, completed = await fold(database)
    idle = [row["id"] for row in await database.fetch(IDLE)]
    return SweptBatches([*changed, *completed, *expired], ended, idle)


async def _end_lines(database: Fetches, batch: UUID, ending: Ending) -> Sequence[Ended]:
    after, last = line_bounds(batch)
    ended: list[Ended] = []
    for _ in range(CHUNKS):
        rows = await database.fetch(LEFT, after, last, CHUNK_ROWS)
        if rows:
            after = rows[-1]["id"]
            ended += await end_requests(database, [row["id"] for row in rows], ending)
        if len(rows) < CHUNK_ROWS:
            break
    return ended
