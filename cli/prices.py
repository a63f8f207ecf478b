"""`carpool prices`: what tokens cost, and from which date on."""

from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from carpool.errors import ConfigurationError
from carpool.price_settings import PriceSettings, fault_of, moment_of
from carpool.prices import PriceRow
from carpool.settings import Settings
from cli.bulk.faults import printable
from cli.opened_database import opened_database
from db import prices

WIDTH = 240
"""Wider than a terminal, where it must be: a name that is cut off deletes nothing."""
HEADINGS = ("model", "backend", "since", "input", "cached", "written", "output", "long requests")


async def show(settings: Settings) -> None:
    """Print all prices, past and future ones too, in dollars for a million tokens."""
    async with opened_database(settings) as database:
        found = await prices.list_prices(database)
    table = Table(*(Column(heading, no_wrap=True) for heading in HEADINGS), box=None)
    for row in found.rows:
        price = row.price
        table.add_row(
            *(printable(row.model), printable(row.backend) or "any", row.since.isoformat()),
            *(f"{each.normalize():f}" for each in (price.input, price.cached)),
            *(f"{each.normalize():f}" for each in (price.written, price.output)),
            _long(row),
        )
    Console(width=WIDTH, markup=False, highlight=False).print(table)


async def put(settings: Settings, values: dict[str, Any]) -> None:
    """Store a price in the place of one of the same model, backend and date.

    Raises ConfigurationError for one that cannot be.
    """
    try:
        row = PriceSettings.model_validate(values).row
    except ValidationError as error:
        place, reason = fault_of(error)
        raise ConfigurationError(f"{_option(place or '')}: {reason}") from None
    async with opened_database(settings) as database:
        changed = await prices.set_price(database, row)
    print("Set." if changed else "It is so already.")


async def delete(settings: Settings, *, model: str, backend: str, since: str) -> None:
    """Remove a price; raises ConfigurationError where there is none."""
    try:
        moment = moment_of(since)
    except ValueError as error:
        raise ConfigurationError(f"--since: {error}") from None
    async with opened_database(settings) as database:
        deleted = await prices.delete_price(database, model, backend, moment)
    if not deleted:
        raise ConfigurationError("there is no such price; `carpool prices list` shows all")
    print("Deleted.")


def _option(place: str) -> str:
    return "MODEL" if place == "model" else f"--{place.replace('_', '-')}"


def _long(row: PriceRow) -> str:
    price = row.price
    if price.long_tokens is None:
        return ""
    return (
        f"above {price.long_tokens:,} input tokens: input x {price.long_input.normalize():f}, "
        f"output x {price.long_output.normalize():f}"
    )
