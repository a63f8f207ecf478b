"""What the database knows of the whole system, for a monitoring that asks every few seconds.

`Standing` is read by key and from small tables; what is counted in large ones (here the batches,
by `db.depths` the queue) is for a caller who minds how often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from carpool.prices import COLUMNS, UNKNOWN, Ledger
from carpool.states import BatchStatus
from db.database import Database, Fetches
from db.partitions import PARTITIONED

SERVED = "select r.model, s.backend from routes r left join served s on s.model = r.model"
RUNS = """
select backend, accepting, count(*) as runs, sum(in_flight)::bigint as in_flight,
    sum(capacity)::bigint as capacity
from runs where ended_at is null group by backend, accepting
"""
PROCESSES = """
select kind, paused_at is not null as paused, count(*) from processes
where ended_at is null group by 1, 2
"""
# What has less than a tenth of its window left.
OPEN_BATCHES = """
select
    count(*) filter (
        where b.status < 2 and b.expires_at - now() < (b.expires_at - b.created_at) / 10
    ) as late,
    coalesce(sum(b.total - coalesce(
        c.completed + c.failed + c.cancelled + c.expired, 0
    )), 0)::bigint as lines,
    extract(epoch from min(b.expires_at) filter (where b.status < 2))::float8 as expiry
from batches b left join batch_counts c on c.batch_id = b.id
where b.status < 4 and not b.dry_run
"""
PAUSES = """
select backend, upstream, greatest(extract(epoch from paused_until - now()), 0)::float8 as seconds
from model_limits where paused_until is not null
"""
PARTITIONS = "select relname from pg_class where relkind = 'r' and relname ~ '_[0-9]{8}$'"
ENDED = """
select model, sum(completed)::bigint as completed, sum(failed)::bigint as failed,
    sum(cancelled)::bigint as cancelled, sum(expired)::bigint as expired,
    sum(paid)::bigint as paid, sum(saved_shared)::bigint as saved_shared,
    sum(saved_cache)::bigint as saved_cache, sum(saved_prefix)::bigint as saved_prefix,
    sum(saved_window)::bigint as saved_window, sum(saved_own)::bigint as saved_own
from totals where day >= $1 and day < $2 group by model
"""
BATCHES = "select status, count(*) from batches where not dry_run group by status"


class Runs(NamedTuple):
    """The live runs of one backend that take requests, or that take none."""

    backend: str
    accepting: bool
    runs: int
    in_flight: int
    capacity: int


class Ended(NamedTuple):
    """Requests of one model that ended, and what they cost and saved."""

    model: str
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    ledger: Ledger = UNKNOWN

    def plus(self, other: "Ended") -> "Ended":
        """The sum of both."""
        return Ended(
            self.model,
            self.completed + other.completed,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
            self.ledger + other.ledger,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What is known at once."""

    served: Sequence[tuple[str, str | None]]
    """Models with each backend that their routes lead to; None for one that leads nowhere."""
    runs: Sequence[Runs]
    processes: Sequence[tuple[str, bool, int]]
    """Kind, whether paused, how many live."""
    late_batches: int
    batch_lines: int
    batch_expiry: float | None
    pauses: Sequence[tuple[str, str, float]]
    """Backends and upstream models that a provider has paused, and for how many seconds more."""
    partition_days: float | None
    """How far ahead there are partitions, of the table where that is least; None without any."""
    ended: Sequence[Ended]
    """Since the day that `read_standing` was given."""


async def read_standing(database: Database, *, since: date) -> Standing:
    """Read it; the ended requests are those from a day on (in UTC)."""
    async with database.transaction() as driver:
        batches = (await driver.fetch(OPEN_BATCHES))[0]
        return Standing(
            served=[tuple(row) for row in await driver.fetch(SERVED)],
            runs=[Runs(*row) for row in await driver.fetch(RUNS)],
            processes=[tuple(row) for row in await driver.fetch(PROCESSES)],
            late_batches=batches["late"],
            batch_lines=batches["lines"],
            batch_expiry=batches["expiry"],
            pauses=[tuple(row) for row in await driver.fetch(PAUSES)],
            partition_days=_days_ahead([row[0] for row in await driver.fetch(PARTITIONS)]),
            ended=[_ended(row) for row in await driver.fetch(ENDED, since, date.max)],
        )


async def read_ended(database: Fetches, *, before: date) -> list[Ended]:
    """The requests that ended before a day (in UTC)."""
    return [_ended(row) for row in await database.fetch(ENDED, date.min, before)]


async def count_batches(database: Fetches) -> dict[BatchStatus, int]:
    """How many batches there are of each status."""
    return {BatchStatus(row[0]): row[1] for row in await database.fetch(BATCHES)}


def _ended(row: Any) -> Ended:
    ledger = Ledger(**{name: row[name] for name in COLUMNS})
    return Ended(
        row["model"], row["completed"], row["failed"], row["cancelled"], row["expired"], ledger
    )


def _days_ahead(names: Sequence[str]) -> float | None:
    """From the names of the partitions, each of which ends with its day."""
    last: dict[str, datetime] = {}
    for name in names:
        table, _, day = name.rpartition("_")
        if table in PARTITIONED:
            end = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
            last[table] = max(end, last.get(table, end))
    if not last:
        return None
    return (min(last.values()) - datetime.now(UTC)).total_seconds() / 86400
