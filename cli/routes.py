"""`carpool routes`: which backends answer a model, seen and changed while all runs."""

import getpass
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from carpool.errors import ConfigurationError
from carpool.leg_text import format_route, parse_leg
from carpool.routing import Route, RouteError
from carpool.settings import Settings, patient_of
from carpool.windows import parse_seconds
from cli.announcement import announced
from cli.opened_database import opened_database
from db import routes

WIDTH = 240


async def show(settings: Settings) -> None:
    """Print all routes."""
    async with opened_database(settings) as database:
        found = await routes.list_routes(database)
    _print(("model", "answered by"), ((model, format_route(r)) for model, r in found.items()))


async def change(
    settings: Settings, model: str, legs: Sequence[str], *, alias: str | None, cache: str | None
) -> None:
    """Set a model's route; raises ConfigurationError, with nothing changed, where it cannot be."""
    try:
        route = Route(
            legs=tuple(map(parse_leg, legs)),
            alias=alias,
            cache_seconds=None if cache is None else parse_seconds(cache),
        )
        async with opened_database(settings) as database:
            before = await routes.set_route(
                database,
                model,
                route,
                actor=_actor(),
                backends=settings.file.backends,
                patient=patient_of(settings.file.backends),
            )
    except (RouteError, ValueError) as error:
        raise ConfigurationError(f"routes: {error}") from None
    was = "nothing" if before is None else format_route(before)
    await _told(settings, f"{model}: {was} -> {format_route(route)}")


async def delete(settings: Settings, model: str) -> None:
    """Delete a model's route; raises ConfigurationError where there is none, or it is needed."""
    try:
        async with opened_database(settings) as database:
            before = await routes.delete_route(database, model, actor=_actor())
    except RouteError as error:
        raise ConfigurationError(f"routes: {error}") from None
    if before is None:
        raise ConfigurationError(f"routes: there is no route of a model '{model}'")
    await _told(settings, f"{model}: {format_route(before)} -> nothing")


async def history(settings: Settings, model: str | None, *, limit: int) -> None:
    """Print the last changes."""
    async with opened_database(settings) as database:
        found = await routes.route_changes(database, model, limit=limit)
    _print(
        ("when", "who", "model", "before", "after"),
        (
            (
                f"{change.at:%Y-%m-%d %H:%M:%S}",
                change.actor,
                change.model,
                "" if change.before is None else format_route(change.before),
                "" if change.after is None else format_route(change.after),
            )
            for change in found
        ),
    )


async def _told(settings: Settings, what: str) -> None:
    late = "" if await announced(settings) else " (seen within seconds, for Redis is away)"
    Console(width=WIDTH, markup=False, highlight=False).print(f"{what}{late}")


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _print(columns: Sequence[str], rows: object) -> None:
    table = Table(*(Column(column, no_wrap=True) for column in columns), box=None)
    for row in rows:  # type: ignore[attr-defined]
        table.add_row(*row)
    Console(width=WIDTH, markup=False).print(table)
