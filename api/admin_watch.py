"""Those who watch the overview: all that one process serves share one computation of it."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import structlog
from sqlalchemy.exc import DBAPIError

from api.catalog import Catalog
from api.remembered import Remembered
from carpool.doorbell import Doorbell
from carpool.errors import Unavailable
from carpool.log import cause
from carpool.overview import Overview
from db.database import Database, DatabaseAway
from db.overview import OverviewReader, Seen
from db.sessions import still_valid

TICK_SECONDS: Final = 1.0
RECHECK_SECONDS: Final = 15.0
"""How long a watcher's key may be revoked, or its session over, before it sees no more."""
MOST_WATCHERS: Final = 1000
AWAY: Final = b'event: away\ndata: {"text":"The database cannot be reached."}\n\n'
FAILED: Final = b'event: away\ndata: {"text":"The overview cannot be read: see the log."}\n\n'
log = structlog.get_logger()


class Watcher:
    """One connection: of overviews it gets the newest, of other events one of each kind."""

    def __init__(self, by: UUID | str) -> None:
        self.by = by
        self.event = asyncio.Event()
        self.over = False
        """Whether it shall see no more."""
        self._pending: dict[str, bytes] = {}

    def put(self, kind: str, event: bytes) -> None:
        """Have an event sent, last, in the place of an earlier one of its kind that was not."""
        self._pending.pop(kind, None)
        self._pending[kind] = event
        self.event.set()

    def take(self) -> bytes:
        """All that is to be sent now."""
        self.event.clear()
        pending, self._pending = self._pending, {}
        return b"".join(pending.values())

    def end(self) -> None:
        """Let it go."""
        self.over = True
        self.event.set()


class Watch:
    """Reads the overview once a second while somebody watches, and never else."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        catalog: Catalog,
        kinds: Mapping[str, str],
        *,
        most: int = MOST_WATCHERS,
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._catalog = catalog
        self._reader = OverviewReader(database, kinds)
        self._lane = database.lane()
        self._seen: Remembered[None, Seen] = Remembered(self._read, seconds=TICK_SECONDS)
        self._watchers: dict[Watcher, None] = {}
        self._most = most
        self._watched = asyncio.Event()
        self._last: Seen | None = None
        self._away = False
        """Whether those who watch were told last that there is nothing to see."""

    async def seen(self) -> Seen:
        """The overview, at most a second old; raises DatabaseAway."""
        return await self._seen.get(None)

    @contextmanager
    def watching(self, by: UUID | str, seen: Seen) -> Iterator[Watcher]:
        """A watcher that is given what was seen; raises Unavailable where there are too many."""
        if len(self._watchers) >= self._most:
            raise Unavailable(f"{self._most} connections watch already.", code="too_many_watchers")
        watcher = Watcher(by)
        watcher.put("overview", _event(seen.overview))
        self._watchers[watcher] = None
        self._watched.set()
        try:
            yield watcher
        finally:
            self._watchers.pop(watcher, None)
            if not self._watchers:
                self._watched.clear()

    async def serve(self) -> None:
        """Tell for ever."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._watched.wait()
                recheck_at = loop.time() + RECHECK_SECONDS
                while self._watchers:
                    await asyncio.sleep(TICK_SECONDS)
                    try:
                        self._tell(await self._seen.get(None, younger_than_seconds=0.0))
                        if loop.time() >= recheck_at:
                            recheck_at = loop.time() + RECHECK_SECONDS
                            await self._recheck()
                    except (DatabaseAway, DBAPIError, asyncpg.PostgresError) as error:
                        log.warning("overview_not_read", error=cause(error))
                        self._lose(AWAY)
                    except Exception as error:  # to see is not worth the process that serves
                        log.error("overview_failed", error=cause(error))
                        self._lose(FAILED)
                self._last = None
        finally:
            await self._lane.close()

    def end(self) -> None:
        """Let all go, for this process ends."""
        self._most = 0
        for watcher in self._watchers:
            watcher.end()

    async def _read(self, key: None) -> Seen:
        return await self._reader.read(
            self._lane, await self._catalog.routes(), redis_away=not self._doorbell.healthy
        )

    def _tell(self, seen: Seen) -> None:
        last, self._last = self._last, seen
        back, self._away = self._away, False
        if back or last is None or _still(last.overview) != _still(seen.overview):
            self._put("overview", _event(seen.overview))
        for what, mark in seen.marks.items():
            if last is not None and last.marks[what] != mark:
                self._put(what, b'event: changed\ndata: {"what":"%b"}\n\n' % what.encode())

    def _lose(self, event: bytes) -> None:
        self._away = True
        self._put("overview", event)

    def _put(self, kind: str, event: bytes) -> None:
        for watcher in self._watchers:
            watcher.put(kind, event)

    async def _recheck(self) -> None:
        by = {watcher.by for watcher in self._watchers}
        valid = await still_valid(
            self._database,
            [key for key in by if isinstance(key, UUID)],
            [cookie for cookie in by if isinstance(cookie, str)],
        )
        for watcher in self._watchers:
            if watcher.by not in valid:
                watcher.end()


def _still(overview: Overview) -> Overview:
    """An overview without what changes though nothing happens."""
    rates = msgspec.structs.replace(overview.rates, span_seconds=0.0)
    return msgspec.structs.replace(overview, at=0.0, counted_at=0.0, rates=rates)


def _event(overview: Overview) -> bytes:
    return b"event: overview\ndata: %b\n\n" % msgspec.json.encode(overview)
