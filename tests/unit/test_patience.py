"""A process that stood still does not take for a stall what it has not read yet."""

import asyncio
import socket
import time

import pytest
import uvloop

from api.patience import Patience

LIMIT_SECONDS = 0.2
LONG_SECONDS = 60.0


async def _read_after_a_standstill() -> bytes:
    mine, theirs = socket.socketpair()
    mine.setblocking(False)

    def stand_still() -> None:
        theirs.send(b"in time")
        time.sleep(LIMIT_SECONDS * 2)

    with mine, theirs:
        asyncio.get_running_loop().call_soon(stand_still)
        async with Patience(LIMIT_SECONDS):
            return await asyncio.get_running_loop().sock_recv(mine, 100)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_came_while_the_process_stood_still_is_read(run) -> None:  # type: ignore[no-untyped-def]
    assert run(_read_after_a_standstill()) == b"in time"


async def test_it_ends_after_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with Patience(LIMIT_SECONDS):
            await asyncio.sleep(LONG_SECONDS)
    assert LIMIT_SECONDS * 0.9 <= time.monotonic() - began < LONG_SECONDS


async def test_what_ends_before_leaves_nothing_behind() -> None:
    async with Patience(0.01):
        pass
    await asyncio.sleep(0.05)  # a timer that was left would cancel this


async def test_a_cancellation_is_no_timeout() -> None:
    async def wait() -> None:
        async with Patience(LONG_SECONDS):
            await asyncio.sleep(LONG_SECONDS)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
