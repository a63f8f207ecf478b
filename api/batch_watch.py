"""Connections that watch batches, woken when one of them changes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from carpool.doorbell import Doorbell
from carpool.notices import BATCHES_CHANNEL, decode_batches


class BatchWatch:
    """Hears of changes through Redis; who waits looks by itself now and then, should that fail."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._watchers: dict[UUID, set[asyncio.Event]] = {}

    async def listen(self) -> None:
        """Hear for ever."""
        await self._doorbell.listen((BATCHES_CHANNEL,), self._heard, self._connected)

    @contextmanager
    def watching(self, batch: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the batch has changed."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(batch, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(batch, None)

    def _heard(self, channel: str, data: bytes) -> None:
        for notice in decode_batches(data):
            for event in self._watchers.get(notice.id, ()):
                event.set()

    async def _connected(self) -> None:
        for watchers in self._watchers.values():
            for event in watchers:
                event.set()
