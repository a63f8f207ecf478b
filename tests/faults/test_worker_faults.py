"""Whatever befalls a worker, every accepted request ends once, and its client is told the truth."""

import asyncio
import os
import signal
from functools import partial

import pytest
from openai import APIError, APIStatusError

from carpool.states import Outcome
from tests.faults.load import (
    CLAIMED,
    MODEL,
    agree,
    answered,
    ask,
    begun,
    gathered,
    in_flight,
    settled,
)
from tests.faults.pace import held_stack
from tests.faults.processes import late, lives, stopped
from tests.stack import END_SECONDS, Stack, eventually, stack_in_temporary_directory

WORKER = "worker simulated-1"
OTHER = "worker simulated-2"
LEASE = {"CARPOOL_LEASE_SECONDS": "5"}
OWNERS = """
select p.pid, count(*) as claims
from queue q join runs r on r.id = q.owner join processes p on p.id = r.process_id
where p.ended_at is null group by p.pid
"""


async def owners(stack: Stack) -> dict[int, int]:
    """How many rows each worker process holds."""
    return {row["pid"]: row["claims"] for row in await stack.fetch(OWNERS)}


async def test_a_worker_killed_with_200_in_flight_loses_none() -> None:
    with held_stack() as (stack, pace):
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(200)]
            await in_flight(stack, 200)
            pace.quicken()
            os.kill(stack.pid(WORKER), signal.SIGKILL)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert {len(stored) for stored in held.values()} == {1}
        assert {stored[0].epoch for stored in held.values()} == {3}
        lost = await stack.fetch("select outcome, count(*) as n from attempts group by outcome")
        assert [tuple(row) for row in lost] == [("lost", 200)]


async def test_a_stream_whose_worker_dies_after_tokens_ends_with_an_error_event() -> None:
    """One of which nothing was read yet simply runs again."""
    with held_stack() as (stack, pace):
        async with stack.async_client(max_retries=2) as client:
            heard: list[list[str]] = [[] for _ in range(20)]
            read = [
                asyncio.create_task(
                    ask(
                        client,
                        stream=True,
                        heard=pieces.append,
                        max_tokens=2000,
                        milliseconds_per_token=100,
                    )
                )
                for pieces in heard
            ]
            unread = [asyncio.create_task(ask(client, stream=True)) for _ in range(20)]
            await in_flight(stack, 40)
            await begun(heard)
            pace.quicken()
            os.kill(stack.pid(WORKER), signal.SIGKILL)
            broken = await gathered(read)
            await settled(stack)
            whole = await gathered(unread)
        answered(whole)
        for view in broken:
            assert isinstance(view.error, APIError)
            assert not isinstance(view.error, APIStatusError)
            assert view.code == "stream_interrupted"
            assert view.text
        held = await agree(stack, [*broken, *whole])
        assert {s.outcome for v in broken for s in held[v.prompt]} == {Outcome.FAILED}


async def test_nothing_of_a_stopped_worker_reaches_a_client_once_another_took_over() -> None:
    """The first is stopped beyond its lease, and goes on when the second has its rows."""
    with stack_in_temporary_directory(LEASE, options=("--workers", "2")) as stack:
        first, second = stack.pid(WORKER), stack.pid(OTHER)
        async with stack.async_client(max_retries=2) as client:
            heard: list[list[str]] = [[] for _ in range(10)]
            with stopped(second):
                read = [
                    asyncio.create_task(
                        ask(
                            client,
                            stream=True,
                            heard=pieces.append,
                            max_tokens=2000,
                            milliseconds_per_token=100,
                        )
                    )
                    for pieces in heard
                ]
                unread = [
                    asyncio.create_task(
                        ask(
                            client,
                            stream=number < 10,
                            max_tokens=1,
                            milliseconds_per_token=15_000,
                        )
                    )
                    for number in range(20)
                ]
                await in_flight(stack, 30)
                await begun(heard)
                assert await owners(stack) == {first: 30}
            with stopped(first):
                broken = await gathered(read)
                told = sum(map(len, heard))

                async def taken_over() -> bool:
                    return set(await owners(stack)) == {second}

                await eventually(taken_over, END_SECONDS)
            # The first computes on for a moment, and would emit what it computed.
            whole = await gathered(unread)
            await settled(stack)
            assert sum(map(len, heard)) == told
        answered(whole)
        assert {view.code for view in broken} == {"stream_interrupted"}
        held = await agree(stack, [*broken, *whole])
        assert {len(stored) for stored in held.values()} == {1}
        assert {s.outcome for v in broken for s in held[v.prompt]} == {Outcome.FAILED}
        assert {held[v.prompt][0].epoch for v in whole} == {3}
        async with stack.async_client() as client:
            answered(await gathered(ask(client) for _ in range(20)))


async def test_a_poisonous_request_fails_and_its_neighbours_are_answered() -> None:
    with stack_in_temporary_directory({"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "300"}) as stack:
        async with stack.async_client(max_retries=2) as client:
            neighbours = [asyncio.create_task(ask(client)) for _ in range(25)]
            poison = asyncio.create_task(ask(client, "poison", die=True))
            neighbours += [asyncio.create_task(ask(client)) for _ in range(25)]
            views = await gathered([poison, *neighbours])
            await settled(stack)
        answered(views[1:])
        assert isinstance(views[0].error, APIStatusError)
        assert views[0].error.status_code == 500
        assert views[0].code == "engine_killed"
        held = await agree(stack, views)
        assert {len(stored) for stored in held.values()} == {1}
        kills = await stack.value(
            "select count(*) from attempts a join requests r on r.id = a.id "
            "where convert_from(r.body, 'utf8') like '%poison%'"
        )
        assert 3 <= kills <= 5


async def test_without_a_worker_requests_wait_and_are_answered_when_one_comes() -> None:
    with stack_in_temporary_directory(options=("--workers", "0")) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [
                asyncio.create_task(ask(client, stream=number % 2 == 0)) for number in range(100)
            ]

            async def all_stored() -> bool:
                return bool(await stack.value("select count(*) from queue") == 100)

            await eventually(all_stored)
            with late(stack, "worker", "--backend", MODEL):
                views = await gathered(asking)
                await settled(stack)
        answered(views)
        held = await agree(stack, views)
        assert {stored[0].epoch for stored in held.values()} == {1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["15", "9"])
async def test_a_worker_that_dies_again_and_again_under_load_loses_none(
    number: signal.Signals,
) -> None:
    """Three times; one that is told to end hands back what it holds, and that is no loss."""
    with held_stack({"CARPOOL_DRAIN_SECONDS": "1"}, options=("--workers", "2")) as (stack, pace):
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(150)]
            for _ in range(3):
                pid = await eventually(lambda: busiest(stack))
                os.kill(pid, number)
                asking += [asyncio.create_task(ask(client)) for _ in range(30)]
                await eventually(partial(ended, stack, pid), END_SECONDS)
            pace.quicken()
            for name in (WORKER, OTHER):
                await lives(stack, name)
                await stack.replace(name, signal.SIGTERM)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        await agree(stack, views)
        lost = await stack.value("select count(*) from attempts")
        assert (lost == 0) is (number == signal.SIGTERM)


async def busiest(stack: Stack) -> int | None:
    """The worker that holds the most rows, if any holds some.

    Of one row alone, that was lost before, its death would be the fault.
    """
    held = await owners(stack)
    pid = max(held, key=lambda pid: held[pid], default=None)
    return pid if pid is not None and held[pid] > 1 else None


async def ended(stack: Stack, pid: int) -> bool:
    return pid not in await owners(stack)


async def test_a_stream_that_its_worker_cannot_finish_while_it_ends_is_ended_with_an_error() -> (
    None
):
    """Told to end, it has less time than the stream takes; another worker is there to take over."""
    with stack_in_temporary_directory(
        {"CARPOOL_DRAIN_SECONDS": "0.5"}, options=("--workers", "2")
    ) as stack:
        async with stack.async_client(max_retries=2) as client:
            heard: list[list[str]] = [[] for _ in range(20)]
            asking = [
                asyncio.create_task(
                    ask(
                        client,
                        stream=True,
                        heard=pieces.append,
                        max_tokens=2000,
                        milliseconds_per_token=100,
                    )
                )
                for pieces in heard
            ]
            await begun(heard)
            for name in (WORKER, OTHER):
                os.kill(stack.pid(name), signal.SIGTERM)
            views = await gathered(asking)
            await settled(stack)
        assert {view.code for view in views} == {"stream_interrupted"}
        await agree(stack, views)


async def test_a_worker_holds_no_more_than_its_slots() -> None:
    """So that no more than these is lost with it, and the rest can go to another."""
    slots = 16
    with stack_in_temporary_directory(
        {"CARPOOL_SIMULATED_SLOTS": str(slots), "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "600000"}
    ) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(100)]
            await in_flight(stack, slots)
            held = [await stack.value(CLAIMED) for _ in range(50)]
            for waiting in asking:
                waiting.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        assert set(held) == {slots}
