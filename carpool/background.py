"""Loops that run beside the work; a process that lost one of them ends, to be started anew."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

from carpool.log import cause

AGAIN_SECONDS = 2.0
"""Longer than a loop takes to close its connections once it is cancelled."""
log = structlog.get_logger()


class Background:
    """Tasks beside the work. One that fails has the process drain and end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Run loops until `close`."""
        for loop in loops:
            task = asyncio.create_task(loop)
            self._tasks.add(task)
            task.add_done_callback(_watch)

    async def close(self) -> None:
        """Cancel the loops, and wait until they have ended.

        Those that have not are cancelled again: `asyncio.wait_for`, by which libraries wait, too,
        swallows a cancellation of the very moment in which it has an outcome, up to Python 3.11.
        """
        tasks, self._tasks = self._tasks, set()
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=AGAIN_SECONDS)


def _watch(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        return
    log.error("background_loop_died", loop=task.get_coro().__qualname__, error=cause(error))  # type: ignore[union-attr]
    os.kill(os.getpid(), signal.SIGTERM)
