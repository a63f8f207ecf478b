"""The lines of a batch that have ended, while it runs and after."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from carpool.ids import line_bounds
from db.database import Fetches
from db.pages import bounded

# In the order in which they were stored. A result carries the moment its transaction began at, and
# one that began before another may commit after it: only what began before every transaction
# that is still open is told, and so no line is ever overtaken by the cursor.
FINISHED = bounded(
    """
select s.id, r.custom_id, s.outcome, s.status_code, s.body, s.completed_at
from results s join requests r on r.id = s.id
where s.batch_id = $1 and s.id between $2 and $3 and (s.completed_at, s.id) > ($4, $5)
    and s.completed_at < $6
order by s.completed_at, s.id limit $7
""",
    order="completed_at, id",
)
HORIZON = """
select coalesce(min(xact_start), now()) as moment from pg_stat_activity
where datname = current_database() and application_name like 'carpool%'
    and pid <> pg_backend_pid()
"""
UNANSWERED = bounded(
    """
select r.id, r.custom_id, r.body
from results s join requests r on r.id = s.id
where s.id > $1 and s.id <= $2 and s.outcome <> 0
order by s.id limit $3
""",
    order="id",
)
MARGIN = timedelta(milliseconds=20)
"""Between the beginning of a transaction and its showing."""
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Behind which line to go on."""

    completed_at: datetime = BEGINNING
    id: UUID = UUID(int=0)


class FinishedLine(msgspec.Struct, frozen=True):
    """A line that has ended; ``custom_id`` as it is stored."""

    id: UUID
    custom_id: str
    outcome: int
    status_code: int
    body: bytes
    completed_at: datetime


class UnansweredLine(msgspec.Struct, frozen=True):
    """A queued line that ended without success, as it was asked."""

    id: UUID
    custom_id: str
    body: bytes


async def finished_lines(
    database: Fetches, batch: UUID, *, ended: bool, after: Cursor, limit: int
) -> list[FinishedLine]:
    """A page of the lines behind a cursor, in the order in which they ended.

    ``ended`` is whether the batch has: then nothing is still to be stored, and all may be told.
    """
    horizon = FOREVER
    if not ended:
        [row] = await database.fetch(HORIZON)
        horizon = row["moment"] - MARGIN
    rows: Sequence[Any] = await database.fetch(
        FINISHED,
        batch,
        *line_bounds(batch),
        after.completed_at,
        after.id,
        horizon,
        limit,
    )
    return [FinishedLine(*row[:-1]) for row in rows]


async def unanswered_lines(
    database: Fetches, batch: UUID, *, after: UUID, limit: int
) -> list[UnansweredLine]:
    """A page of the queued lines without a success behind an id, in the file's order."""
    rows = await database.fetch(UNANSWERED, after, line_bounds(batch)[1], limit)
    return [UnansweredLine(*row[:-1]) for row in rows]
