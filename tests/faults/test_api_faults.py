"""The API dies while clients wait: their own retries get the answers, and no work is done twice."""

import asyncio
import json
import os
import signal
from functools import partial

import pytest

from carpool.states import Outcome
from tests.clients import CHAT, chat_head
from tests.faults.load import agree, answered, ask, begun, gathered, in_flight, settled
from tests.faults.processes import dead, stopped
from tests.stack import IN_FLIGHT, Stack, eventually, stack_in_temporary_directory

SLOW = {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "6000", "CARPOOL_SIMULATED_TOKEN_MS": "20"}
API = "api"


async def all_computed(stack: Stack, number: int) -> None:
    async def stored() -> bool:
        return bool(await stack.value("select count(*) from results") == number)

    await eventually(stored)


async def test_clients_of_a_killed_api_get_their_answers_by_their_own_retries() -> None:
    """A hundred different requests: each is claimed once, and is stored once."""
    with stack_in_temporary_directory(SLOW) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(100)]
            await in_flight(stack, 100)
            os.kill(stack.pid(API), signal.SIGKILL)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert len(held) == 100
        assert {len(stored) for stored in held.values()} == {1}
        assert {(s.epoch, s.attempts) for [s] in held.values()} == {(1, 1)}


async def test_identical_requests_of_a_killed_api_are_taken_over_one_to_one() -> None:
    with stack_in_temporary_directory(SLOW) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client, "the same")) for _ in range(40)]
            await in_flight(stack, 40)
            os.kill(stack.pid(API), signal.SIGKILL)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert len(held["the same"]) == 40
        assert {s.epoch for s in held["the same"]} == {1}


async def test_an_answer_that_was_ready_while_no_api_lived_is_delivered() -> None:
    """The work ends before the new process listens; nothing is computed again."""
    with stack_in_temporary_directory(SLOW) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(50)]
            await in_flight(stack, 50)
            with dead(stack, API):
                await all_computed(stack, 50)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert {(s.epoch, s.attempts) for [s] in held.values()} == {(1, 1)}


async def test_streams_of_a_killed_api_break_and_no_one_is_told_that_they_ended() -> None:
    """A stream that was begun is not asked again: it ends by its grace, or with its answer."""
    with stack_in_temporary_directory({"CARPOOL_GRACE_SECONDS": "2"}) as stack:
        async with stack.async_client(max_retries=2) as client:
            heard: list[list[str]] = [[] for _ in range(20)]
            asking = [
                asyncio.create_task(
                    ask(
                        client,
                        stream=True,
                        heard=pieces.append,
                        max_tokens=2000,
                        milliseconds_per_token=50,
                    )
                )
                for pieces in heard
            ]
            await begun(heard)
            os.kill(stack.pid(API), signal.SIGKILL)
            views = await gathered(asking)
            assert all(view.error is not None and view.gave_up for view in views)
            await settled(stack)
        held = await agree(stack, views)
        assert {s.outcome for stored in held.values() for s in stored} == {Outcome.CANCELLED}
        assert {s.code for stored in held.values() for s in stored} == {"client_disconnected"}


@pytest.mark.parametrize("clients", [50])
async def test_an_api_told_to_end_lets_its_clients_go_and_they_come_back(clients: int) -> None:
    """It has less time to drain than the answers take."""
    with stack_in_temporary_directory({**SLOW, "CARPOOL_DRAIN_SECONDS": "0.5"}) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(clients)]
            await in_flight(stack, clients)
            os.kill(stack.pid(API), signal.SIGTERM)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert {len(stored) for stored in held.values()} == {1}
        assert {(s.epoch, s.attempts) for [s] in held.values()} == {(1, 1)}


async def test_an_api_killed_twice_in_a_row_costs_each_client_two_retries_and_no_answer() -> None:
    """While it starts again nobody is refused, or the retries would be used up in a second.

    The worker is stopped meanwhile, so that no answer comes before the second death.
    """
    slower = {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "10000", "CARPOOL_LEASE_SECONDS": "120"}
    with stack_in_temporary_directory(slower) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(50)]
            await eventually(partial(all_held, stack, 50))
            with stopped(stack.pid("worker simulated-1")):
                for _ in range(2):
                    await stack.replace(API)
                    await eventually(partial(all_wait_again, stack, 50))
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert {(s.epoch, s.attempts) for [s] in held.values()} == {(1, 1)}


async def test_bytes_that_came_while_the_api_stood_still_are_no_stall() -> None:
    """It stands still for longer than a body may: that is none of the client's doing."""
    body = json.dumps(CHAT).encode()
    with stack_in_temporary_directory({"CARPOOL_STALL_SECONDS": "4"}) as stack:
        async with stack.connection() as (reader, writer):
            writer.write(chat_head(stack.api_key, f"content-length: {len(body)}") + body[:9])
            await writer.drain()
            await asyncio.sleep(0.5)  # so that it waits for the rest by now; if not, all the better
            with stopped(stack.pid(API)):
                writer.write(body[9:])
                await writer.drain()
                await asyncio.sleep(6)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def all_held(stack: Stack, number: int) -> bool:
    """Whether the worker has heard of so many claims, too, and says so."""
    return bool(await stack.value(IN_FLIGHT) == number)


async def all_wait_again(stack: Stack, number: int) -> bool:
    """Whether so many requests have a living process that waits for them."""
    waiting = await stack.value(
        "select count(*) from queue q join processes p on p.id = q.channel and p.ended_at is null"
    )
    return bool(waiting == number)
