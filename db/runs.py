"""Runs: one worker serving one backend, alive as long as its heartbeat."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from carpool.engine import EngineFigures, encode_figures
from db.database import Lane
from db.sql import load

HEARTBEAT = load("heartbeat")
# The slot row decides whether a run may start: the lowest free number, or none.
BEGIN = """
insert into runs (id, backend, slot, process_id, worker, capacity)
select $1, $2, free.slot, $3, $4, $5
from generate_series(0, $6 - 1) as free(slot)
where not exists (
    select from runs r where r.backend = $2 and r.slot = free.slot and r.ended_at is null
)
order by free.slot limit 1
on conflict do nothing
returning slot
"""
RELEASE_STRAYS = """
update queue
set state = case when lost >= 2 then 3 else 0 end, owner_kind = 0, owner = null
where id = any($2::uuid[]) and (owner = $1) is true
"""
ACCEPT = "update runs set accepting = $2 where id = $1 and ended_at is null"
PATIENCE = """
update runs set patience_seconds = $2
where id = $1 and ended_at is null and patience_seconds is distinct from $2
"""
END = "update runs set ended_at = now(), in_flight = 0 where id = $1 and ended_at is null"

MAX_RUNS_PER_BACKEND = 1024


async def begin_run(
    lane: Lane, *, run: UUID, backend: str, process: UUID, worker: str, capacity: int
) -> bool:
    """Take a slot of the backend; False where none is free (or another took it just now)."""
    rows = await lane.fetch(BEGIN, run, backend, process, worker, capacity, MAX_RUNS_PER_BACKEND)
    return bool(rows)


class Beat(NamedTuple):
    """What a heartbeat learns."""

    alive: bool
    """False: the run was ended by others, and its rows are no longer its own."""
    gone: list[UUID]
    """Of the rows that it holds, those that were taken away."""
    strays: list[UUID]
    """Rows that it owns without holding them."""


async def beat_run(
    lane: Lane,
    run: UUID,
    held: Sequence[tuple[UUID, int]],
    figures: EngineFigures | None = None,
) -> Beat:
    """Renew the lease, and compare the (id, epoch) that the run holds with the queue."""
    told = None if figures is None else encode_figures(figures).decode()
    rows = await lane.fetch(HEARTBEAT, run, [h[0] for h in held], [h[1] for h in held], told)
    return Beat(*rows[0])


async def set_accepting(lane: Lane, run: UUID, *, accepting: bool) -> None:
    """Say whether a run takes new requests; of one that does not, a route's next takes over."""
    await lane.fetch(ACCEPT, run, accepting)


async def set_patience(lane: Lane, run: UUID, seconds: float) -> None:
    """Say below how many seconds left a run leaves requests to the route's next."""
    await lane.fetch(PATIENCE, run, seconds)


async def release_strays(lane: Lane, run: UUID, strays: Sequence[UUID]) -> None:
    """Hand back rows that a run owns without holding them."""
    await lane.fetch(RELEASE_STRAYS, run, strays)


async def end_run(lane: Lane, run: UUID) -> None:
    """End a run that holds nothing more."""
    await lane.fetch(END, run)
