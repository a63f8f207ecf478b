"""Brings a database to the newest schema."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import migrations
from db.database import Database
from db.partitions import ensure_partitions

_LOCK_KEY = 0x6361_7270
MIGRATION_TIMEOUT_SECONDS = 600


def migrate(database_url: str, *, partition_days: int = 14) -> None:
    """Upgrade to head and make the partitions of the coming days; safe to run at the same time.

    Raises what the driver raises where the database cannot be reached.
    """
    asyncio.run(_migrate(database_url, partition_days))


async def _migrate(database_url: str, partition_days: int) -> None:
    database = Database(database_url, pool_size=1, timeout_seconds=MIGRATION_TIMEOUT_SECONDS)
    try:
        async with database.connect() as connection:
            await connection.run_sync(_upgrade)
        await ensure_partitions(database, datetime.now(UTC), days=partition_days)
    finally:
        await database.close()


def _upgrade(connection: Connection) -> None:
    connection.execute(text("select pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    connection.commit()
    try:
        config = Config(str(Path(migrations.__file__).parent / "alembic.ini"))
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    finally:
        connection.execute(text("select pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
        connection.commit()
