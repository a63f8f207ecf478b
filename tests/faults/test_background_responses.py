"""Whatever befalls the worker, each background response is noted once and its row answered once."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

from tests.batches import Json
from tests.double.launch import Double
from tests.faults.processes import stopped
from tests.faults.provider_rows import (
    ANSWERS,
    ANY,
    ANY_CANCEL,
    AT_ONCE,
    BY_RESPONSE,
    NOTED,
    RESPONSES,
    SPEED,
    TRIES,
    batches_of,
    create,
    ended,
    killed_while_held,
    lines,
    made,
    name_of,
    of_requests,
    until,
)
from tests.faults.worker import Worker
from tests.stack import Stack, eventually

pytest_plugins = ("tests.faults.provider_fixtures",)

WAY = BY_RESPONSE
DRAINING = "worker_draining"


async def test_a_worker_killed_at_each_step_answers_each_row_once(
    bare: Stack, double: Double, worker: Worker
) -> None:
    """None that was noted is created again; of those in doubt at a kill, some may be."""
    number = 200
    await double.fault(RESPONSES, method="POST", hang=True)
    holds: list[tuple[str, Json]] = [
        (RESPONSES, {"method": "POST", "hang_after_chunks": 0}),
        (ANY, {"method": "GET", "hang": True}),
        (ANY, {"method": "GET", "hang_after_chunks": 0}),
        (ANY, {"method": "DELETE", "hang": True}),
        (ANY, {"method": "DELETE", "hang_after_chunks": 0}),
    ]
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(number))
        for following in [*holds, None]:
            await killed_while_held(worker, double, following)
        await ended(batches, batch, number)
    found = await bare.fetch(ANSWERS, name_of(batch))
    assert Counter(row["status_code"] for row in found) == {200: number}
    created = of_requests(await made(double))
    assert set(created) == {f"{row['id'].hex}.1" for row in found}
    assert created.total() <= number + 2 * AT_ONCE
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_what_is_noted_is_adopted_and_never_created_again(
    bare: Stack, double: Double, worker: Worker
) -> None:
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(50))
        await until(bare, NOTED, 50)
        worker.replace()
        await double.auto(SPEED)
        await ended(batches, batch, 50)
    assert len(await made(double)) == 50


async def test_a_worker_told_to_end_leaves_its_responses_to_the_next(
    bare: Stack, double: Double, worker: Worker
) -> None:
    """In the middle of their creation: what was asked for is noted before it goes."""
    await double.fault(RESPONSES, method="POST", hang_after_chunks=0)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(100))
        await double.until_held()
        told = worker.log.read_text().count(DRAINING)
        ending = asyncio.create_task(asyncio.to_thread(worker.end, signal.SIGTERM))

        async def ends() -> bool:
            return worker.log.read_text().count(DRAINING) > told

        await eventually(ends)
        await double.release()
        await ending
        worker.replace()
        await ended(batches, batch, 100)
    assert len(await made(double)) == 100


async def test_a_keeper_that_slept_through_its_lease_takes_back_what_it_did(
    bare: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Stopped while it creates one, it comes back to find that another has created it, too."""
    await double.auto(0)
    await double.fault(RESPONSES, method="POST", hang=True)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(10))
        await double.until_held()
        await until(bare, NOTED, 9)
        with stopped(worker.pid):
            other = Worker(bare, config, "patient", seat="another")
            try:
                await until(bare, NOTED, 10)
            finally:
                other.end(signal.SIGTERM)
            await double.release()
            await double.until(RESPONSES, "POST", 11)
        await double.until(ANY_CANCEL, "POST")
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    responses = await made(double)
    paid = of_requests([one for one in responses if one.paid])
    assert (len(paid), set(paid.values())) == (10, {1})
    assert {one.status for one in responses if not one.paid} == {"cancelled"}
