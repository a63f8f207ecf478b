"""`carpool keys`: make, list and revoke the teams' keys."""

from rich.console import Console
from rich.table import Column, Table

from carpool.errors import ConfigurationError
from carpool.settings import Settings
from cli.announcement import announced
from cli.opened_database import opened_database
from db import keys

WIDTH = 240
"""Wider than a terminal, where it must be: an id that is cut off revokes nothing."""


async def create(
    settings: Settings, *, team: str, name: str, owner: str | None, admin: bool, bodies: bool
) -> None:
    """Print the secret, which is shown this once."""
    async with opened_database(settings) as database:
        key = await keys.create_key(
            database, team=team, name=name, owner=owner, admin=admin, sees_bodies=bodies
        )
    Console(stderr=True).print(f"Key {key.id} of team '{team}'. It is shown this once:")
    print(key.secret)


async def show(settings: Settings, *, team: str | None) -> None:
    """Print all keys, or a team's."""
    async with opened_database(settings) as database:
        found = await keys.list_keys(database, team=team)
    headings = ("id", "team", "name", "owner", "admin", "bodies", "ends in", "made", "revoked")
    table = Table(*(Column(heading, no_wrap=True) for heading in headings), box=None)
    for key in found:
        table.add_row(
            str(key.id),
            key.team,
            key.name,
            key.owner or "",
            "yes" if key.admin else "",
            "yes" if key.sees_bodies else "",
            key.hint,
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
        )
    Console(width=WIDTH).print(table)


async def revoke(settings: Settings, identifier: str) -> None:
    """Revoke by id or secret; raises ConfigurationError where no valid key is meant."""
    async with opened_database(settings) as database:
        revoked = await keys.revoke_key(database, identifier)
    if not revoked:
        raise ConfigurationError("there is no such key, or it is revoked already")
    if await announced(settings):
        Console().print("Revoked.")
    else:
        Console().print("Revoked. API processes may take it for some seconds more.")
