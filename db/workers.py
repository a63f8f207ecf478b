"""The processes as an operator sees them, and how a worker is told to pause and to go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from carpool.engine import EngineFigures, decode_figures
from db.database import Fetches
from db.processes import PREDECESSORS

WORKERS = """
select
    p.id, p.kind, p.backend, p.host, p.pid, p.started_at, p.paused_at is not null as paused,
    p.ended_at is not null as dead,
    extract(epoch from now() - p.heartbeat_at)::float8 as heartbeat_seconds,
    (
        select coalesce(json_agg(json_build_object(
            'id', r.id, 'backend', r.backend, 'in_flight', r.in_flight, 'capacity', r.capacity,
            'accepting', r.accepting, 'figures', r.figures,
            'started_at', extract(epoch from r.started_at)
        ) order by r.started_at), '[]')::text
        from runs r where r.process_id = p.id and r.ended_at is null
    ) as runs
from processes p
where p.left_at is null and ($1::uuid is null or p.id = $1)
    and (p.ended_at is null or p.ended_at > now() - interval '1 hour')
order by p.ended_at is not null, p.kind, p.backend, p.started_at
"""
PAUSE = """
update processes set paused_at = coalesce(paused_at, now())
where id = $1 and kind = 'worker' and ended_at is null
"""
# With it what it was about to take over, which its heartbeat locks first, too.
RESUME = f"""
update processes set paused_at = null
from (
    select p.id from processes p, processes me
    where me.id = $1 and me.kind = 'worker' and me.ended_at is null
        and (p.id = me.id or ({PREDECESSORS}))
    order by p.started_at
    for update of p
) resumed
where processes.id = resumed.id
"""  # noqa: S608 - texts of these modules


class WorkerState(StrEnum):
    """How a process stands."""

    LIVE = "live"
    DRAINING = "draining"
    """Told to pause, and its run still ends what it holds."""
    PAUSED = "paused"
    """Holds nothing and begins nothing; a worker's engine stays loaded."""
    DEAD = "dead"
    """Its heart stands still, or another holds its seat; shown for an hour."""


class WorkerRun(msgspec.Struct, frozen=True, kw_only=True):
    """A live run of a worker; ``started_at`` in Unix seconds."""

    id: UUID
    backend: str
    in_flight: int
    capacity: int
    accepting: bool
    started_at: float
    figures: str | None

    @property
    def engine(self) -> EngineFigures | None:
        """What its engine says of itself."""
        return None if self.figures is None else decode_figures(self.figures)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerView:
    """A process of any kind, with its runs where it is a worker."""

    id: UUID
    kind: str
    backend: str | None
    host: str
    pid: int
    state: WorkerState
    started_at: datetime
    heartbeat_seconds: float
    """The age of its last heartbeat."""
    runs: Sequence[WorkerRun]


_decode_runs = msgspec.json.Decoder(list[WorkerRun]).decode


async def list_workers(database: Fetches, identifier: UUID | None = None) -> list[WorkerView]:
    """The processes that live, then those that died within the hour; or the one of an id."""
    found = []
    for row in await database.fetch(WORKERS, identifier):
        runs = _decode_runs(row["runs"])
        if row["dead"]:
            state = WorkerState.DEAD
        elif row["paused"]:
            state = WorkerState.DRAINING if runs else WorkerState.PAUSED
        else:
            state = WorkerState.LIVE
        values = {name: row[name] for name in ("id", "kind", "backend", "host", "pid")}
        found.append(
            WorkerView(
                **values,
                state=state,
                started_at=row["started_at"],
                heartbeat_seconds=row["heartbeat_seconds"],
                runs=runs,
            )
        )
    return found


async def pause_worker(database: Fetches, identifier: UUID) -> None:
    """Have a worker end its run in order and begin none, until resumed, over its restarts.

    One that is dead is not changed.
    """
    await database.fetch(PAUSE, identifier)


async def resume_worker(database: Fetches, identifier: UUID) -> None:
    """Have it claim again."""
    await database.fetch(RESUME, identifier)
