"""What requests cost and saved, summed from the totals of each day: no request's row is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from carpool.prices import COLUMNS, UNKNOWN, Ledger
from db.database import Fetches
from db.sql import load

SAVINGS = load("savings")
TEAM = "select id from teams where name = $1"
TEAMS = "select id, name from teams"


class GroupBy(StrEnum):
    """By what savings are summed."""

    MODEL = "model"
    """As clients asked for it."""
    TEAM = "team"
    BACKEND = "backend"
    """The key is empty for what no backend answered."""
    DAY = "day"
    """In UTC, as 2026-11-24."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """A sum over successful requests; ``unpriced`` of them had no list price.

    Those that shared a day, team, model and backend with one that had a price are not among them:
    the totals know no less.
    """

    key: str
    requests: int = 0
    unpriced: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    ledger: Ledger = UNKNOWN


async def savings(
    database: Fetches,
    *,
    team_id: int | None = None,
    since: date | None = None,
    until: date | None = None,
    group_by: GroupBy = GroupBy.MODEL,
) -> list[Saving]:
    """The sums of one team's requests, or of all, that ended from the day ``since`` to ``until``.

    Both days are in UTC and are among them; None sets no bound. Sorted by key.
    """
    rows = await database.fetch(
        SAVINGS, team_id, since or date.min, until or date.max, group_by.value
    )
    found = [
        Saving(
            key=row["key"],
            requests=row["requests"],
            unpriced=row["unpriced"],
            prompt=row["prompt"],
            cached=row["cached"],
            completion=row["completion"],
            ledger=Ledger(**{name: row[name] for name in COLUMNS}),
        )
        for row in rows
    ]
    return await _with_names(database, found) if group_by is GroupBy.TEAM else found


def total(found: Sequence[Saving]) -> Saving:
    """The sum of all."""
    return Saving(
        key="total",
        requests=sum(saving.requests for saving in found),
        unpriced=sum(saving.unpriced for saving in found),
        prompt=sum(saving.prompt for saving in found),
        cached=sum(saving.cached for saving in found),
        completion=sum(saving.completion for saving in found),
        ledger=sum((saving.ledger for saving in found), UNKNOWN),
    )


async def find_team(database: Fetches, name: str) -> int | None:
    """A team's id; None where there is no such team."""
    rows = await database.fetch(TEAM, name)
    return rows[0]["id"] if rows else None


async def _with_names(database: Fetches, found: Sequence[Saving]) -> list[Saving]:
    names = {str(row["id"]): row["name"] for row in await database.fetch(TEAMS)}
    named = [replace(saving, key=names.get(saving.key, saving.key)) for saving in found]
    return sorted(named, key=lambda saving: saving.key)
