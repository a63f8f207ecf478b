"""What `/metrics` shows of the whole system, read from the database when Prometheus asks.

While the database is away these figures are absent: neither zero nor those of before. Each API
process shows the same, so that queries take their max over instances, and not their sum.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import asyncpg
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.queue_families import of_count, of_database, of_standing
from carpool.log import cause
from carpool.states import BatchStatus
from db.database import Database, DatabaseAway
from db.depths import REST_SHARE, Depths, count_depths
from db.figures import Ended, Standing, count_batches, read_ended, read_standing

FRESH_SECONDS = 1.0
"""Whoever asks again within it gets the same figures."""
PATIENCE_SECONDS = 5.0
"""How long a scrape waits for the database; Prometheus's own patience is 10 s."""
SETTLED_DAYS = 1
"""After so many days nothing is added to a day's totals."""
UNREAD = (DatabaseAway, TimeoutError, asyncpg.PostgresError)
"""What keeps figures from being read: no connection, no answer in time, other tables."""
log = structlog.get_logger()


class QueueMetrics(Collector):
    """Reads when it is asked, remembers for a moment, and collects what was read."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._database = database
        self._read_at = -FRESH_SECONDS
        self._reading: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._count_at = 0.0
        self._lane = database.lane()
        self._seen: tuple[Standing, Sequence[Ended]] | None = None
        self._depths: Depths | None = None
        self._batches: Mapping[BatchStatus, int] = {}
        self._past: tuple[date, list[Ended]] | None = None

    async def read(self) -> None:
        """Have figures of now, or none where the database does not give them in time."""
        if self._reading is None:
            if time.monotonic() - self._read_at < FRESH_SECONDS:
                return
            self._reading = asyncio.create_task(self._read())
        # Those who ask at one time share one reading, and none who gives up ends it.
        await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Read no more."""
        tasks = [task for task in (self._reading, self._counting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lane.close()

    def collect(self) -> Iterator[Metric]:
        """The metrics of what was read last."""
        yield from of_database(up=self._seen is not None)
        seen, depths = self._seen, self._depths
        if seen is None:
            return
        standing, past = seen
        yield from of_standing(standing, past)
        if depths is not None:
            models = {model for model, _ in standing.served}
            yield from of_count(depths, self._batches, models)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._seen = await self._read_standing()
            if self._counting is None and time.monotonic() >= self._count_at:
                self._counting = asyncio.create_task(self._count())
            if self._counting is not None:
                # One that takes longer goes on; the one before it is shown, with its time.
                await asyncio.wait({self._counting}, timeout=PATIENCE_SECONDS / 2)
        except UNREAD as error:
            log.warning("figures_not_read", error=cause(error))
            self._seen = self._depths = None
            self._count_at = 0.0
        finally:
            self._read_at, self._reading = time.monotonic(), None

    async def _read_standing(self) -> tuple[Standing, Sequence[Ended]]:
        settled = datetime.now(UTC).date() - timedelta(days=SETTLED_DAYS)
        if self._past is None or self._past[0] != settled:
            self._past = (settled, await read_ended(self._database, before=settled))
        past = self._past[1]
        return await read_standing(self._database, since=settled), past

    async def _count(self) -> None:
        began = time.monotonic()
        try:
            depths = await count_depths(self._lane)
            self._batches = await count_batches(self._database)
            self._depths = depths
            took = time.monotonic() - began
            self._count_at = began + max(FRESH_SECONDS, REST_SHARE * took)
        except UNREAD as error:
            log.warning("queue_not_counted", error=cause(error))
            self._depths = None
        finally:
            self._counting = None
