"""`carpool savings`: what requests cost, what they would have cost, and what saved how much."""

from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal

from rich.console import Console
from rich.table import Column, Table

from carpool.errors import ConfigurationError
from carpool.settings import Settings
from cli.bulk.faults import printable
from cli.opened_database import opened_database
from db.savings import GroupBy, Saving, find_team, savings, total

WIDTH = 240
"""Wider than a terminal, where it must be: an amount that is cut off is another amount."""
COUNTS: dict[str, Callable[[Saving], int]] = {
    "requests": lambda saving: saving.requests,
    "without price": lambda saving: saving.unpriced,
    "tokens in": lambda saving: saving.prompt,
    "cached": lambda saving: saving.cached,
    "out": lambda saving: saving.completion,
}
MONEY: dict[str, Callable[[Saving], int]] = {
    "paid $": lambda saving: saving.ledger.paid,
    "list price $": lambda saving: saving.ledger.listed,
    "saved $": lambda saving: saving.ledger.saved,
    "shared": lambda saving: saving.ledger.saved_shared,
    "cache": lambda saving: saving.ledger.saved_cache,
    "prefix": lambda saving: saving.ledger.saved_prefix,
    "window": lambda saving: saving.ledger.saved_window,
    "own": lambda saving: saving.ledger.saved_own,
}


async def show(
    settings: Settings, *, team: str | None, since: str | None, until: str | None, group_by: GroupBy
) -> None:
    """Print a table on a terminal, else a line for each group, its fields between tabs.

    Raises ConfigurationError for a date that is none, or an unknown team.
    """
    first, last = _day("--since", since), _day("--until", until)
    async with opened_database(settings) as database:
        team_id = None
        if team is not None:
            team_id = await find_team(database, team)
            if team_id is None:
                raise ConfigurationError(f"--team: there is no team '{team}'")
        found = await savings(database, team_id=team_id, since=first, until=last, group_by=group_by)
    told = [*found, total(found)]
    # Of a dumb terminal rich forgets the width, unless it is given the height too.
    console = Console(width=WIDTH, height=WIDTH, markup=False, highlight=False)
    if console.is_terminal:
        console.print(_table(told, group_by))
        if told[-1].unpriced:
            console.print(
                f"{told[-1].unpriced:,} requests had no price, and count nowhere in the money: "
                "`carpool prices set` gives their models one from a date on."
            )
    else:
        for line in _lines(told, group_by):
            print(line)


def _table(told: Sequence[Saving], group_by: GroupBy) -> Table:
    """Without the columns in which nothing but 0 would stand."""
    counts, money = (
        {name: of for name, of in columns.items() if any(map(of, told))}
        for columns in (COUNTS, MONEY)
    )
    columns = (Column(name, justify="right", no_wrap=True) for name in (*counts, *money))
    table = Table(Column(group_by, no_wrap=True), *columns, box=None)
    for saving in told:
        table.add_row(
            _name(saving),
            *(f"{of(saving):,}" for of in counts.values()),
            *(_dollars(of(saving), ",.4f") for of in money.values()),
            style="bold" if saving is told[-1] else None,
        )
    return table


def _lines(told: Sequence[Saving], group_by: GroupBy) -> list[str]:
    lines = ["\t".join((group_by, *COUNTS, *MONEY))]
    for saving in told:
        counts = (str(of(saving)) for of in COUNTS.values())
        money = (_dollars(of(saving), ".9f") for of in MONEY.values())
        lines.append("\t".join((_name(saving), *counts, *money)))
    return lines


def _name(saving: Saving) -> str:
    return printable(saving.key).replace("\n", "\\n") or "none"


def _dollars(nanodollars: int, form: str) -> str:
    return format(Decimal(nanodollars).scaleb(-9), form)


def _day(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option}: expected a date, as 2026-11-01") from None
