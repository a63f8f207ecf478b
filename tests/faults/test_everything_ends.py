"""`carpool up` ends under load, by the book or by -9; the next start finishes what was accepted."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from urllib.parse import urlsplit

import pytest

from tests import prepared_postgres
from tests.faults.load import Load, agree, ask, gathered, in_flight, settled
from tests.stack import Stack, start_stack

PACE = {
    "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "2500",
    "CARPOOL_SIMULATED_TOKEN_MS": "20",
    "CARPOOL_DRAIN_SECONDS": "1",
}
HELD = PACE | {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "600000"}
"""Nothing of what is in flight is answered before the end."""
LOST = "select count(*) from attempts where outcome = 'lost'"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, where the account of the embedded Postgres can enter, and with its data."""
    path = Path(tempfile.mkdtemp(prefix="carpool-"))
    prepared_postgres.give(path)
    yield path
    rmtree(path)


def begin_again(stack: Stack) -> Stack:
    """The same directory and port, so that clients that wait find it."""
    port = str(urlsplit(stack.base_url).port)
    return start_stack(stack.directory, PACE, options=("--port", port))


def end(stack: Stack) -> None:
    if stack.process.poll() is None:
        with suppress(Exception):
            stack.stop()


async def test_an_end_in_order_under_load_loses_nothing_and_counts_as_no_loss(
    directory: Path,
) -> None:
    """Answers take longer than the drain: what is in flight is handed back."""
    stack = start_stack(directory, HELD)
    try:
        async with stack.async_client(max_retries=2) as client:
            asking = [
                asyncio.create_task(ask(client, stream=number % 4 == 0)) for number in range(200)
            ]
            await in_flight(stack, 200)
            assert await asyncio.to_thread(stack.stop) == 0
            views = await gathered(asking)
            assert all(view.gave_up for view in views if view.error is not None)
            stack = await asyncio.to_thread(begin_again, stack)
            await settled(stack)
            held = await agree(stack, views)
        assert sum(len(stored) for stored in held.values()) == 200
        assert await stack.value(LOST) == 0
    finally:
        end(stack)


async def test_an_end_within_the_drain_answers_what_is_in_flight(directory: Path) -> None:
    patient = PACE | {
        "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "5000",
        "CARPOOL_DRAIN_SECONDS": "30",
    }
    stack = start_stack(directory, patient)
    try:
        async with stack.async_client(max_retries=0) as client:
            asking = [
                asyncio.create_task(ask(client, stream=number % 2 == 0)) for number in range(50)
            ]
            await in_flight(stack, 50)
            assert await asyncio.to_thread(stack.stop) == 0
            views = await gathered(asking)
            assert [view.error for view in views] == [None] * 50
            stack = await asyncio.to_thread(begin_again, stack)
            await settled(stack)
            await agree(stack, views)
    finally:
        end(stack)


async def test_up_killed_under_load_and_started_again_ends_each_request_once(
    directory: Path,
) -> None:
    stack = start_stack(directory, PACE)
    try:
        async with stack.async_client(max_retries=2) as client:
            async with Load(client, clients=50, milliseconds_per_token=20) as load:
                await load.more(100)
                await asyncio.to_thread(stack.kill)
            stack = await asyncio.to_thread(begin_again, stack)
            await settled(stack)
            await agree(stack, load.views)
            async with stack.async_client() as fresh:
                assert (await ask(fresh)).error is None
    finally:
        end(stack)


async def test_an_end_by_signal_under_steady_load_loses_nothing(directory: Path) -> None:
    """New requests keep coming while everything ends."""
    stack = start_stack(directory, PACE)
    try:
        async with stack.async_client(max_retries=2) as client:
            async with Load(client, clients=50, milliseconds_per_token=20) as load:
                await load.more(100)
                assert await asyncio.to_thread(stack.stop, signal.SIGINT) == 0
            stack = await asyncio.to_thread(begin_again, stack)
            await settled(stack)
            await agree(stack, load.views)
        assert await stack.value(LOST) == 0
    finally:
        end(stack)
