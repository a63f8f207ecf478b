"""What a signal asks of `carpool up`: the first to end in order, the second to hurry."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Listens for SIGINT and SIGTERM from its making on."""

    def __init__(self, say: Callable[[str], None], hurry: Callable[[], None]) -> None:
        self._say = say
        self._hurry = hurry
        self._asked = asyncio.Event()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._ask)

    async def wait(self) -> None:
        """Return when the end is asked for."""
        await self._asked.wait()

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work; False where the end was asked for meanwhile, and the work broken off."""
        working = asyncio.create_task(work)
        asked = asyncio.create_task(self.wait())
        try:
            await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
                return True
            return False
        finally:
            for task in (working, asked):
                task.cancel()
            await asyncio.wait([working, asked])

    def _ask(self) -> None:
        if not self._asked.is_set():
            self._say("ending in order; once more to hurry")
            self._asked.set()
        else:
            self._say("hurrying")
            self._hurry()
