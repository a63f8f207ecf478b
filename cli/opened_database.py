"""A database for the length of one command, its errors told as an operator needs them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.exc import SQLAlchemyError

from carpool.errors import ConfigurationError
from carpool.settings import Settings
from db.database import Database, DatabaseAway

_POOL_SIZE = 1


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn what a database fails with into a ConfigurationError that says what to do."""
    try:
        yield
    except (DatabaseAway, OSError) as error:
        raise ConfigurationError(
            f"database_url: the database cannot be reached ({error}); `carpool doctor` looks why"
        ) from error
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise ConfigurationError(
            f"database_url: the database refuses ({cause}); is it migrated? `carpool migrate`"
        ) from error


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The database of the settings; raises ConfigurationError where it cannot be used."""
    if settings.database_url is None:
        raise ConfigurationError("database_url: not set")
    with database_errors():
        database = Database(
            settings.database_url.get_secret_value(),
            pool_size=_POOL_SIZE,
            timeout_seconds=settings.database_timeout_seconds,
        )
        try:
            yield database
        finally:
            await database.close()
