"""Waiting in tests for what has no event to wait for."""

import asyncio
from collections.abc import Callable

LOOK_SECONDS = 0.005


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return once the condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is watched has no event
            await asyncio.sleep(LOOK_SECONDS)
