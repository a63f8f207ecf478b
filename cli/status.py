"""`carpool status`: what waits, what runs, and who serves."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from carpool.leg_text import format_route
from carpool.settings import Settings
from cli.opened_database import opened_database
from db.overview import overview


async def status(settings: Settings) -> None:
    """Print the tables."""
    async with opened_database(settings) as database:
        seen = await overview(database)
    console = Console()
    for table in (
        _table(
            "Waiting",
            ("model", "class", "requests", "oldest"),
            ((m, c, n, _age(s)) for m, c, n, s in seen.waiting),
        ),
        _table("In flight", ("backend", "requests"), seen.in_flight),
        _table(
            "Runs",
            ("backend", "worker", "in flight", "capacity", "heartbeat"),
            ((b, w, n, c, _age(s)) for b, w, n, c, s in seen.runs),
        ),
        _table(
            "Batches",
            ("id", "team", "model", "status", "done", "of"),
            ((*row[:2], row[2] or "", *row[3:]) for row in seen.batches),
        ),
        _table(
            "Processes",
            ("kind", "host", "pid", "heartbeat"),
            ((k, h, p, _age(s)) for k, h, p, s in seen.processes),
        ),
        _table(
            "Routes",
            ("model", "answered by"),
            ((model, format_route(route)) for model, route in seen.routes.items()),
        ),
    ):
        console.print(table)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    if not table.row_count:
        table.add_row("none")
    return table


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
