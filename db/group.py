"""Group commit: many callers, few transactions."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg
import structlog

from carpool.background import Background
from carpool.errors import Unavailable
from carpool.log import cause
from db.database import Database, DatabaseAway, Lane

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

Flush = Callable[[Lane, Sequence[Item], bool], Awaitable[Sequence[Outcome]]]
"""Stores items in one transaction and returns an outcome for each, in their order.

The flag says that an earlier try broke off, so that some of the items may be stored already.
"""

RETRY_SECONDS = 0.2
log = structlog.get_logger()


class GroupCommit(Generic[Item, Outcome]):
    """Collects items while the transactions before them commit, then stores them as one.

    ``lanes`` transactions run at once, each of at most ``limit`` items. A transaction that the
    database refuses for its data is tried again item by item, so that one bad item fails alone. A
    broken connection is tried again for ``patience_seconds``; then the items fail as Unavailable.
    """

    def __init__(
        self,
        database: Database,
        flush: Flush[Item, Outcome],
        *,
        limit: int,
        lanes: int = 2,
        patience_seconds: float = 30,
        observe: Callable[[int], None] | None = None,
    ) -> None:
        self._database = database
        self._flush = flush
        self._limit = limit
        self._lanes = lanes
        self._patience = patience_seconds
        self._observe = observe
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = 0
        self._background = Background()

    def start(self) -> None:
        """Begin to store."""
        self._background.start(*(self._serve() for _ in range(self._lanes)))

    def put(self, item: Item) -> asyncio.Future[Outcome]:
        """Hand over an item; the future resolves when its transaction has committed."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._idle.clear()
        self._wake.set()
        return future

    async def drain(self) -> None:
        """Wait until all that was handed over is stored or has failed."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the lanes; what still waits is cancelled."""
        await self._background.close()
        for _, future in self._waiting:
            future.cancel()

    async def _serve(self) -> None:
        lane = self._database.lane()
        try:
            while True:
                if not self._waiting:
                    self._wake.clear()
                    if not self._busy:
                        self._idle.set()
                    await self._wake.wait()
                    continue
                count = min(len(self._waiting), self._limit)
                group = [self._waiting.popleft() for _ in range(count)]
                self._busy += 1
                try:
                    await self._store(lane, group)
                finally:
                    self._busy -= 1
        finally:
            await lane.close()

    async def _store(self, lane: Lane, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        if self._observe is not None:
            self._observe(len(group))
        try:
            outcomes = await self._persist(lane, [item for item, _ in group])
        except asyncpg.PostgresError as error:
            if len(group) == 1:
                _fail(group[0][1], error)
                return
            log.warning("group_refused", size=len(group), error=cause(error))
            for member in group:
                await self._store(lane, [member])
        except Exception as error:
            log.error("group_failed", size=len(group), error=cause(error))
            for _, future in group:
                _fail(future, error)
        else:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)

    async def _persist(self, lane: Lane, items: Sequence[Item]) -> Sequence[Outcome]:
        again = False
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return await self._flush(lane, items, again)
            except (DatabaseAway, asyncpg.UniqueViolationError) as error:
                if time.monotonic() > give_up:
                    raise Unavailable(
                        "The request could not be stored; try again.", retry_after_seconds=2
                    ) from error
                if isinstance(error, asyncpg.UniqueViolationError) and not again:
                    raise
                log.warning("group_retried", size=len(items), error=cause(error))
                again = True
                await asyncio.sleep(RETRY_SECONDS)


def _fail(future: asyncio.Future[Outcome], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a caller that has gone away must not turn this into a log of asyncio
