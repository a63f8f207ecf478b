"""Loops beside the work end when they are told to, whatever a library makes of the telling."""

import asyncio

import pytest

from carpool import background
from carpool.background import Background

WAIT_SECONDS = 60.0


async def test_a_loop_that_swallows_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "AGAIN_SECONDS", 0.01)
    swallowed = 0

    async def loop() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(WAIT_SECONDS * 2)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    loops = Background()
    loops.start(loop())
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_SECONDS):
        await loops.close()
    assert swallowed == 3
