"""A writer that collects small writes, for each call into a store costs more than they do."""

from collections.abc import Awaitable, Callable

WRITE_BYTES = 1 << 20


class GatheringWriter:
    """Passes on about a megabyte at a time; what is left, by a last `flush`."""

    def __init__(self, put: Callable[[list[bytes]], Awaitable[None]]) -> None:
        self._put = put
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    async def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            await self._put(waiting)
