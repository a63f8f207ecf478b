"""Connections that wait for answers, and the notices that reach them."""

import asyncio
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import structlog

from carpool.doorbell import Doorbell
from carpool.notices import CHANGED_CHANNEL, Notice, Reads, api_channel, decode_notices
from db.database import Database, DatabaseAway, Lane
from db.follow import Origin, progress_of
from db.results import Stored, results_of

log = structlog.get_logger()


class Sink(Protocol):
    """One connection that waits for one request."""

    request: UUID
    """Set when it begins to wait."""
    watches_epochs: bool
    """Whether it must know of a claim newer than the one that it has read from."""

    @property
    def lacks_from(self) -> int | None:
        """From which chunk on it may lack some that were streamed; None where it does not."""

    def hear(self, notice: Notice) -> None:
        """Take a notice about the request."""

    def stored(self, result: Stored) -> None:
        """Take the stored result; may come after a notice of it, or instead of one."""

    def claimed_anew(self, epoch: int) -> None:
        """Learn the epoch of the request's present claim."""


class Waiting:
    """All sinks of this process: fed by its Redis channel, and by a slow poll of Postgres."""

    def __init__(
        self,
        incarnation: UUID,
        database: Database,
        doorbell: Doorbell,
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called when keys or routes have changed, or may have."""
        self.incarnation = incarnation
        self._database = database
        self._doorbell = doorbell
        self._changed = changed
        self._sinks: dict[UUID, list[Sink]] = {}
        self._polled: set[UUID] = set()
        self._reconnected = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sinks)

    def __contains__(self, request: UUID) -> bool:
        return request in self._sinks

    @property
    def requests(self) -> list[UUID]:
        """What is waited for."""
        return list(self._sinks)

    def add(self, sink: Sink, request: UUID) -> None:
        """Begin to wait for a request; what is published from now on is not missed."""
        sink.request = request
        self._sinks.setdefault(sink.request, []).append(sink)

    def remove(self, sink: Sink) -> bool:
        """Wait no more; whether no other sink waits for the request."""
        sinks = self._sinks.get(sink.request, [])
        if sink in sinks:
            sinks.remove(sink)
        if sinks:
            return False
        self._sinks.pop(sink.request, None)
        return True

    def read(self, request: UUID, origin: Origin, offset: int = 0) -> None:
        """Have the chunks of a request sent here, from an offset on, by the run that makes them."""
        reads = Reads(origin.claimed, request, self.incarnation, offset)
        self._doorbell.tell_reader(origin.run, reads)

    async def listen(self) -> None:
        """Hear notices for ever."""
        await self._doorbell.listen(
            (api_channel(self.incarnation), CHANGED_CHANNEL), self._heard, self._connected
        )

    async def poll(self, poll_seconds: float) -> None:
        """Look for ever in Postgres for what no notice told; one query for all sinks.

        A sink is looked up when it has waited for a whole round; after a reconnection, at once.
        """
        lane = self._database.lane()
        try:
            while True:
                try:
                    async with asyncio.timeout(poll_seconds):
                        await self._reconnected.wait()
                    self._reconnected.clear()
                    due = list(self._sinks)
                except TimeoutError:
                    due = [request for request in self._sinks if request in self._polled]
                self._polled = set(self._sinks)
                try:
                    await self._look_up(lane, due)
                except DatabaseAway as error:
                    log.warning("poll_failed", error=str(error))
        finally:
            await lane.close()

    async def _look_up(self, lane: Lane, due: list[UUID]) -> None:
        if due:
            for result in await results_of(lane, due):
                for sink in tuple(self._sinks.get(result.id, ())):
                    sink.stored(result)
        watched = [r for r in due if any(s.watches_epochs for s in self._sinks.get(r, ()))]
        if watched:
            for request, progress in (await progress_of(lane, watched)).items():
                for sink in tuple(self._sinks.get(request, ())):
                    sink.claimed_anew(progress.epoch)
                    if progress.origin is not None and sink.lacks_from is not None:
                        self.read(request, progress.origin, sink.lacks_from)

    def _heard(self, channel: str, data: bytes) -> None:
        if channel == CHANGED_CHANNEL:
            self._changed()
            return
        for notice in decode_notices(data):
            for sink in tuple(self._sinks.get(notice.id, ())):
                sink.hear(notice)

    async def _connected(self) -> None:
        self._changed()
        self._reconnected.set()
