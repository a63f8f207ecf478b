"""A time limit for what a client does."""

import asyncio
from types import TracebackType

LOOKS = 4
"""Of how many parts a limit is."""


class Patience:
    """`asyncio.timeout`, but that time in which this process itself stood still hardly counts.

    A process that its host has stopped finds, as it goes on, each of its limits over and unread
    what came meanwhile. So a limit of ``seconds`` is of `LOOKS` parts, of which a standstill uses
    up one. Raises TimeoutError at its end, as that does.
    """

    __slots__ = ("_left", "_limit", "_part_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._part_seconds = seconds / LOOKS
        self._left = LOOKS
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        """Begin to count."""
        await self._limit.__aenter__()
        self._wait()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count no longer."""
        self._timer.cancel()
        await self._limit.__aexit__(exc_type, error, traceback)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._part_seconds, self._look)

    def _look(self) -> None:
        self._left -= 1
        if self._left:
            self._wait()
        else:
            self._limit.reschedule(asyncio.get_running_loop().time())
