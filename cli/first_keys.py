"""The keys of `carpool up`: made at the first start, kept as long as the database knows them."""

from cli.connection import Connection
from db.database import Database
from db.keys import create_key, find_key

TEAM = "default"


async def team_key(database: Database, stored: Connection | None) -> str:
    """The stored key of the team `default`, or a new one."""
    if stored is not None and await find_key(database, stored.api_key) is not None:
        return stored.api_key
    return (await create_key(database, team=TEAM, name="carpool up")).secret


async def admin_key(database: Database, stored: Connection | None) -> str:
    """The stored admin key, or a new one."""
    if stored is not None:
        identity = await find_key(database, stored.admin_key)
        if identity is not None and identity.admin:
            return stored.admin_key
    return (await create_key(database, team=TEAM, name="carpool up, admin", admin=True)).secret
