"""Daily partitions of the write-once tables, made ahead of time by any process."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from carpool.ids import id_at
from db.database import Database

PARTITIONED: Final = (
    "requests",
    "results",
    "attempts",
    "deliveries",
    "disconnects",
    "reattachments",
)
LOCK_MILLISECONDS = 500
LOCK_NOT_AVAILABLE = "55P03"
OLDEST_OPEN = """
select least(
    (select id from queue order by id limit 1),
    (select id from batches where status < 4 order by id limit 1)
)
"""
_LOCK_KEY = 0x7061_7274
log = structlog.get_logger()


async def ensure_partitions(database: Database, now: datetime, *, days: int) -> list[str]:
    """Make the partitions from today to ``days`` ahead that do not exist; return their names.

    Each is made by itself, and not now where that would make the traffic wait. Rows of a day
    without a partition lie in the default one, and the day's partition is then not made, for
    Postgres refuses it: nothing is lost, only kept elsewhere.
    """
    made = []
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with database.connect() as connection:
        rows = await connection.execute(text("select relname from pg_class where relkind = 'r'"))
        existing = set(rows.scalars())
    for offset in range(days + 1):
        start = today + timedelta(days=offset)
        for table in PARTITIONED:
            name = f"{table}_{start:%Y%m%d}"
            if name not in existing and await _make(database, table, name, start):
                made.append(name)
    return made


async def _make(database: Database, table: str, name: str, start: datetime) -> bool:
    low, high = id_at(start), id_at(start + timedelta(days=1))
    try:
        async with database.begin() as connection:
            await connection.execute(text(f"set local lock_timeout = '{LOCK_MILLISECONDS}ms'"))
            await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            made = await connection.scalar(text("select to_regclass(:name)"), {"name": name})
            if made is not None or await _default_holds(connection, table, low, high):
                return False
            await connection.execute(
                text(
                    f"create table {name} partition of {table} "
                    f"for values from ('{low}') to ('{high}')"
                )
            )
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        log.warning("partition_postponed", partition=name)
        return False
    return True


async def drop_partitions(database: Database, before: datetime) -> list[str]:
    """Drop the partitions of whole days before a moment; return their names.

    A day stays while a request or a batch of it, or of a day before it, is not finished. Gives up
    for now, with LockNotAvailableError, rather than make the traffic wait.
    """
    dropped = []
    async with database.begin() as connection:
        await connection.execute(text(f"set local lock_timeout = '{LOCK_MILLISECONDS}ms'"))
        oldest = await connection.scalar(text(OLDEST_OPEN))
        rows = await connection.execute(text("select relname from pg_class where relkind = 'r'"))
        for name in sorted(rows.scalars()):
            table, _, day = name.rpartition("_")
            if table not in PARTITIONED or not day.isdecimal():
                continue
            end = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
            if end <= before and (oldest is None or oldest >= id_at(end)):
                await connection.execute(text(f"drop table {name}"))
                dropped.append(name)
    return dropped


async def _default_holds(connection: AsyncConnection, table: str, low: UUID, high: UUID) -> bool:
    key = "connection" if table in ("disconnects", "reattachments") else "id"
    query = text(
        f"select exists (select from {table}_default where {key} >= :low and {key} < :high)"  # noqa: S608 - names of our own
    )
    return bool(await connection.scalar(query, {"low": low, "high": high}))
