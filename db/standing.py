"""Who serves, what ended of late, and what is open: read in one journey, from small tables."""

import msgspec

from db.database import Fetches
from db.sql import load

OVERVIEW = load("overview")


class RunRow(msgspec.Struct, frozen=True):
    """A live run, as the database tells it."""

    id: str
    backend: str
    process: str
    in_flight: int
    capacity: int
    accepting: bool
    patient: bool
    figures: str | None


class ProcessRow(msgspec.Struct, frozen=True):
    """A process that lives, or died ``dead_seconds`` ago."""

    id: str
    kind: str
    backend: str | None
    paused: bool
    dead_seconds: float | None


class Ended(msgspec.Struct, frozen=True):
    """What ended lately of one model."""

    model: str
    requests: int
    completed: int
    failed: int
    prompt: int
    completion: int


class Sums(msgspec.Struct, frozen=True):
    """What ended today; money in nanodollars."""

    requests: int
    failed: int
    prompt: int
    cached: int
    completion: int
    paid: int
    saved_shared: int
    saved_cache: int
    saved_prefix: int
    saved_window: int
    saved_own: int


class BatchSums(msgspec.Struct, frozen=True):
    """Of the open batches; what else changes when one of them does is a mark and no figure."""

    open: int
    lines: int
    done: int
    statuses: int
    last: str | None


class Standing(msgspec.Struct, frozen=True):
    """What `db/sql/overview.sql` tells."""

    at: float
    since: float
    version: int
    runs: list[RunRow]
    processes: list[ProcessRow]
    recent: list[Ended]
    today: Sums
    batches: BatchSums
    providers: dict[str, int]
    """Lines in provider batches that are open, by backend."""


_decode = msgspec.json.Decoder(Standing).decode


async def read_standing(database: Fetches) -> Standing:
    """Read it now."""
    [row] = await database.fetch(OVERVIEW)
    return _decode(row["seen"])
