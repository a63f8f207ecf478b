"""`carpool workers`: the processes, and workers drained and resumed while all runs."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table

from carpool.errors import ConfigurationError, NotFound
from carpool.ids import parse_public_id, public_id
from carpool.settings import Settings
from cli.announcement import announced
from cli.opened_database import opened_database
from db.database import Fetches
from db.workers import WorkerState, list_workers, pause_worker, resume_worker

PREFIX = "proc_"
WIDTH = 240


async def show(settings: Settings) -> None:
    """Print the processes that live, then those that died within the hour."""
    async with opened_database(settings) as database:
        found = await list_workers(database)
    columns = ("id", "kind", "backend", "host", "process", "state", "in flight", "heard")
    table = Table(*(Column(name, no_wrap=True) for name in columns), box=None)
    for view in found:
        table.add_row(
            public_id(PREFIX, view.id),
            view.kind,
            view.backend or "",
            view.host,
            str(view.pid),
            view.state,
            f"{sum(run.in_flight for run in view.runs):,}" if view.kind == "worker" else "",
            f"{view.heartbeat_seconds:.0f} s ago",
        )
    Console(width=WIDTH, markup=False).print(table)


async def drain(settings: Settings, worker: str) -> None:
    """Drain a worker; raises ConfigurationError where it is none that lives."""
    await _turn(settings, worker, pause_worker)


async def resume(settings: Settings, worker: str) -> None:
    """Have it claim again; raises ConfigurationError where it is none that lives."""
    await _turn(settings, worker, resume_worker)


async def _turn(
    settings: Settings, worker: str, turn: Callable[[Fetches, UUID], Awaitable[None]]
) -> None:
    try:
        identifier = parse_public_id(PREFIX, worker)
    except NotFound as error:
        raise ConfigurationError(f"workers: {error}") from None
    async with opened_database(settings) as database:
        found = await list_workers(database, identifier)
        if not found or found[0].kind != "worker" or found[0].state is WorkerState.DEAD:
            raise ConfigurationError(f"workers: no worker '{worker}' lives")
        await turn(database, identifier)
        [view] = await list_workers(database, identifier)
    print(f"{worker} is {view.state}")
    if not await announced(settings):
        print("Redis is away: the worker follows with its next heartbeat.")
