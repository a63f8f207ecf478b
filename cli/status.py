"""`carpool status`: what waits, what runs, who serves and what is wrong; once, or live."""

import asyncio
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carpool.leg_text import format_route
from carpool.overview import BackendView, Overview
from carpool.routing import Route
from carpool.settings import Settings
from cli.bulk.faults import printable
from cli.opened_database import opened_database
from db.database import Database, DatabaseAway
from db.overview import OverviewReader
from db.routes import list_routes, read_routing

WATCH_SECONDS = 1.0
WIDTH = 240
"""Where there is no terminal: a name that is cut off is another name."""
AWAY = Text("The database cannot be reached; these figures are old.", style="bold red")
NOTHING = "-"


async def status(settings: Settings, *, watch: bool = False) -> None:
    """Print the tables; of ``watch``, again each second, until interrupted."""
    kinds = {name: backend.kind for name, backend in settings.backends.items()}
    async with opened_database(settings) as database:
        reader = OverviewReader(database, kinds)
        width = None if sys.stdout.isatty() else WIDTH
        # Of a dumb terminal rich forgets the width, unless it is given the height too.
        console = Console(width=width, height=width, markup=False, highlight=False)
        seen = await _read(reader, database)
        if not watch:
            console.print(seen)
        elif console.is_terminal:
            with Live(seen, console=console, auto_refresh=False, screen=True) as live:
                while True:
                    await asyncio.sleep(WATCH_SECONDS)
                    seen = await _read_again(reader, database, seen)
                    live.update(seen, refresh=True)
        else:
            while True:
                console.print(seen)
                await asyncio.sleep(WATCH_SECONDS)
                seen = await _read_again(reader, database, seen)


async def _read(reader: OverviewReader, database: Database) -> Group:
    routing = await read_routing(database)
    seen = await reader.read(database, routing.routes)
    return shown(seen.overview, await list_routes(database))


async def _read_again(reader: OverviewReader, database: Database, last: Group) -> Group:
    try:
        return await _read(reader, database)
    except DatabaseAway:
        return last if AWAY in last.renderables else Group(AWAY, *last.renderables)


def shown(overview: Overview, routes: dict[str, Route]) -> Group:
    """An overview for a terminal."""
    return Group(
        _headline(overview),
        *(Text(f"! {problem.text}", style="bold red") for problem in overview.problems),
        _table(
            "Waiting",
            ("model", "class", "team", "requests", "in flight", "oldest", "drained in", "why"),
            (
                (
                    queue.model,
                    queue.service_class,
                    "others" if queue.team is None else queue.team,
                    f"{queue.waiting:,}",
                    f"{queue.in_flight:,}",
                    span(queue.oldest_seconds),
                    span(queue.drain_seconds),
                    queue.text or "",
                )
                for queue in overview.queues
            ),
        ),
        _table(
            "Backends",
            ("backend", "kind", "state", "runs", "in flight", "capacity", "engine", "models"),
            (_backend(backend) for backend in overview.backends),
        ),
        _table(
            "Processes",
            ("kind", "live", "paused", "dead"),
            ((p.kind, str(p.live), str(p.paused), str(p.dead)) for p in overview.processes),
        ),
        _table(
            "Routes",
            ("model", "answered by"),
            ((model, format_route(route)) for model, route in routes.items()),
        ),
    )


def _headline(overview: Overview) -> Text:
    rates, today = overview.rates, overview.today
    failed = NOTHING if rates.error_rate is None else f"{rates.error_rate:.1%}"
    return Text(
        f"{overview.waiting:,} waiting, {overview.in_flight:,} in flight, "
        f"oldest {span(overview.oldest_seconds)}, drained in {span(overview.drain_seconds)}\n"
        f"{rates.requests_per_second:,.1f} requests/s, tokens/s in "
        f"{rates.input_tokens_per_second:,.0f} out {rates.output_tokens_per_second:,.0f}, "
        f"failed {failed}\n"
        f"today {today.requests:,} requests, {today.failed:,} failed, "
        f"paid ${today.paid:,.2f}, saved ${today.saved:,.2f}\n"
        f"{overview.batches.open:,} open batches, {overview.batches.lines_left:,} lines left\n"
    )


def _backend(view: BackendView) -> Sequence[str]:
    engine = ""
    if view.engine is not None and view.engine.kv_cache_usage is not None:
        engine = f"{view.engine.running} running, {view.engine.waiting} waiting, "
        engine += f"KV {view.engine.kv_cache_usage:.0%}"
        if view.engine.prefix_cache_hit_rate is not None:
            engine += f", prefix hits {view.engine.prefix_cache_hit_rate:.0%}"
    return (
        view.backend,
        view.kind,
        view.state,
        str(view.runs),
        f"{view.in_flight:,}",
        f"{view.capacity:,}",
        engine,
        ", ".join(view.models),
    )


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    if not table.row_count:
        table.add_row("none")
    return table


def span(seconds: float | None) -> str:
    """A span for a person's eye."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
