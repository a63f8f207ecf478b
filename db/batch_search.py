"""Batches of all teams, newest first, how fast each goes, and which of its lines failed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from carpool.ids import line_bounds
from carpool.states import BatchStatus
from db.batches import VIEW, BatchView, batch_view
from db.database import Database, Fetches
from db.results import error_of

OPEN: Final = (
    BatchStatus.VALIDATING,
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.CANCELLING,
)
OWNED = VIEW.replace("select\n    b.*", "select\n    t.name as team, b.*").replace(
    "left join batch_counts", "join teams t on t.id = b.team_id left join batch_counts"
)
ONE = OWNED + "where b.id = $1 and not b.dry_run"
PAGE = (
    OWNED
    + """
where not b.dry_run and ($1::uuid is null or b.id < $1) and ($2::integer is null or b.team_id = $2)
    and ($3::smallint is null or b.status = $3) {open}
order by b.id desc limit $4
"""
)
# Of the last quarter of an hour, up to so many lines of each batch.
RECENT_LINES: Final = 5_000
RECENT_SECONDS: Final = 900.0
MINUTE_SECONDS: Final = 60.0
ENOUGH_LINES: Final = 20
PACE = f"""
select
    asked.id, count(s.completed_at)::integer as lines,
    (count(*) filter (where s.completed_at > now() - interval '1 minute'))::integer as last_minute,
    extract(epoch from now() - min(s.completed_at))::float8 as oldest_seconds
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as asked(id, low, high)
cross join lateral (
    select completed_at from results
    where batch_id = asked.id and id > asked.low and id <= asked.high
        and completed_at > now() - make_interval(secs => {RECENT_SECONDS})
    order by completed_at desc limit {RECENT_LINES}
) s
group by asked.id
"""  # noqa: S608 - our own text
# By line. Each outcome is a range of its own in the index by (team, outcome, id). Of an error that
# is longer than any should be its beginning tells enough.
FAILURES = """
select f.id, r.custom_id, f.status_code, substring(f.body from 1 for 10000) as body
from (
    select s.id, s.status_code, s.body
    from unnest(array[1, 2, 3]::smallint[]) as o(outcome)
    cross join lateral (
        select id, status_code, body from results
        where team_id = $1 and outcome = o.outcome and id > $2 and id <= $3
        order by id limit $4
    ) s
    order by s.id limit $4
) f
join requests r on r.id = f.id
order by f.id
"""


class Pace(msgspec.Struct, frozen=True):
    """What ended of a batch of late: up to `RECENT_LINES`, within `RECENT_SECONDS`."""

    lines: int
    last_minute: int
    oldest_seconds: float

    def per_second(self, running_seconds: float) -> float:
        """Lines a second of a batch that has run for so long.

        Over the last minute where enough of them ended in it; else over as much as is known.
        """
        if self.lines >= RECENT_LINES:
            return self.lines / max(self.oldest_seconds, 0.001)
        if self.last_minute >= ENOUGH_LINES:
            return self.last_minute / min(MINUTE_SECONDS, max(running_seconds, 1.0))
        return self.lines / min(RECENT_SECONDS, max(running_seconds, 1.0))


class OwnedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch and whose it is; ``per_second`` is None while no line can end."""

    batch: BatchView
    team_id: int
    team: str
    key_id: UUID
    per_second: float | None

    @property
    def eta_seconds(self) -> float | None:
        """Until its last line has ended, at the pace of late."""
        seen = self.batch
        if not self.per_second:
            return None
        done = seen.completed + seen.failed + seen.cancelled + seen.expired
        return max(0, seen.total - done) / self.per_second


class FailedLine(msgspec.Struct, frozen=True):
    """A line that ended without success; ``custom_id`` as it is stored."""

    id: UUID
    custom_id: str
    status_code: int
    code: str | None
    message: str


async def find_any_batch(database: Database, identifier: UUID) -> OwnedBatch | None:
    """A batch of whatever team; None where there is none of this id."""
    async with database.by_index() as driver:
        found = await _owned(driver, await driver.fetch(ONE, identifier))
    return found[0] if found else None


async def list_all_batches(
    database: Database,
    *,
    status: BatchStatus | None = None,
    team_id: int | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[OwnedBatch]:
    """Batches of all teams, or one, at most ``limit`` from the one after ``after`` on."""
    # Said again, so that the index of what is open is of use.
    query = PAGE.format(open="and b.status < 4" if status in OPEN else "")
    async with database.by_index() as driver:
        rows = await driver.fetch(query, after, team_id, status, limit)
        return await _owned(driver, rows)


async def failed_lines(
    database: Database, batch: OwnedBatch, *, after: UUID | None, limit: int
) -> list[FailedLine]:
    """A page of the lines that ended without success behind an id, in the file's order."""
    low, high = line_bounds(batch.batch.id)
    async with database.by_index() as driver:
        rows = await driver.fetch(FAILURES, batch.team_id, max(low, after or low), high, limit)
    return [
        FailedLine(row["id"], row["custom_id"], row["status_code"], *error_of(row["body"]))
        for row in rows
    ]


async def _owned(driver: Fetches, rows: Sequence[Any]) -> list[OwnedBatch]:
    running = [row["id"] for row in rows if row["status"] == BatchStatus.IN_PROGRESS]
    bounds = [line_bounds(batch) for batch in running]
    paces = {}
    if running:
        lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
        for row in await driver.fetch(PACE, running, lows, highs):
            paces[row["id"]] = Pace(row["lines"], row["last_minute"], row["oldest_seconds"])
    return [
        OwnedBatch(
            batch=batch_view(row),
            team_id=row["team_id"],
            team=row["team"],
            key_id=row["key_id"],
            per_second=_per_second(row, paces.get(row["id"])),
        )
        for row in rows
    ]


def _per_second(row: Any, pace: Pace | None) -> float | None:
    if row["status"] != BatchStatus.IN_PROGRESS or row["in_progress_at"] is None:
        return None
    if pace is None:
        return 0.0
    return pace.per_second((datetime.now(UTC) - row["in_progress_at"]).total_seconds())
