"""Connections to Postgres: a pool for everyday queries, and lanes for the hot path."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from carpool.errors import CarpoolError
from carpool.log import cause

LANE_SETTINGS = {
    # The statements of a lane find their rows by key. A plan made while the queue was empty would
    # read it whole at five million rows (LESSONS 7), so that choice is taken away.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "application_name": "carpool-lane",
}
BY_INDEX = "; ".join(
    f"set local {name} = off" for name, value in LANE_SETTINGS.items() if value == "off"
)

CONNECTION_ERRORS = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InternalClientError,
)
# What asyncpg itself cannot encode (a lone surrogate, an integer too large) derives from
# InterfaceError, but says nothing of the connection.
REFUSED = (asyncpg.DataError, asyncpg.exceptions._base.DataError)


class DatabaseAway(CarpoolError):
    """Postgres cannot be reached now; whether the last statement took effect is unknown."""


class Fetches(Protocol):
    """What runs one statement as one transaction: a Database or a Lane."""

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run it, with ``$1`` parameters; the rows that it returns."""


class Database:
    """A pool of connections to one database.

    Every query has a client-side time limit (LESSONS 1).
    """

    def __init__(self, url: str, *, pool_size: int = 5, timeout_seconds: float = 10) -> None:
        self._url = make_url(url).set(drivername="postgresql+asyncpg")
        self._timeout = timeout_seconds
        self._engine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=timeout_seconds,
            hide_parameters=True,
            connect_args={
                "timeout": timeout_seconds,
                "command_timeout": timeout_seconds,
                "server_settings": {
                    "jit": "off",
                    "application_name": "carpool",
                    # A process that is stopped in a transaction must not hold its locks for ever.
                    "statement_timeout": f"{timeout_seconds * 1000:.0f}",
                    "idle_in_transaction_session_timeout": f"{timeout_seconds * 1000:.0f}",
                },
            },
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool; raises DatabaseAway where there is none to be had."""
        try:
            async with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            # SQLAlchemy's words for it are the original's; what it was is the original's cause.
            origin = error.orig and error.orig.__cause__
            if error.connection_invalidated or isinstance(origin, CONNECTION_ERRORS):
                raise DatabaseAway(cause(origin or error)) from error
            raise
        except PoolTimeout as error:
            raise DatabaseAway("no connection of the pool is free") from error
        except CONNECTION_ERRORS as error:
            raise DatabaseAway(cause(error)) from error

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that commits at the end."""
        async with self.connect() as connection, connection.begin():
            yield connection

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run one named statement (``$1`` parameters) by itself on a connection of the pool."""
        async with self.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            rows: Sequence[Any] = await driver.fetch(sql, *arguments)
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """The driver's own connection, for named statements that commit together."""
        async with self.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            async with driver.transaction():
                yield driver

    @asynccontextmanager
    async def by_index(self) -> AsyncIterator[Any]:
        """The same, its statements planned as a lane's: whatever was known of the tables."""
        async with self.transaction() as driver:
            await driver.execute(BY_INDEX)
            yield driver

    def lane(self) -> "Lane":
        """A new lane to the same database."""
        return Lane(self._url.set(drivername="postgresql"), self._timeout)

    async def close(self) -> None:
        """Close the pool's connections."""
        await self._engine.dispose()


class Lane:
    """One connection kept for one task, opened when first used and again after it broke.

    Its statements are prepared once and planned by index alone.
    """

    def __init__(self, url: Any, timeout_seconds: float) -> None:
        self._dsn = url.render_as_string(hide_password=False)
        self._timeout = timeout_seconds
        self._connection: Any = None

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run one statement, which is one transaction.

        Raises DatabaseAway where the connection broke (the statement may have taken effect), and
        asyncpg's own error where the data were refused (it has not).
        """
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._dsn,
                    timeout=self._timeout,
                    command_timeout=self._timeout,
                    server_settings=LANE_SETTINGS,
                )
            rows: Sequence[Any] = await self._connection.fetch(sql, *arguments)
            return rows
        except REFUSED as error:
            raise asyncpg.DataError(str(error)) from error
        except CONNECTION_ERRORS as error:
            self.drop()
            raise DatabaseAway(cause(error)) from error
        except asyncio.CancelledError:
            self.drop()
            raise

    def drop(self) -> None:
        """Cut the connection; the next statement opens another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Close the connection in order."""
        if self._connection is not None and not self._connection.is_closed():
            connection, self._connection = self._connection, None
            try:
                await connection.close(timeout=self._timeout)
            except CONNECTION_ERRORS:
                connection.terminate()
