"""Whatever befalls its processes, a batch ends completed, with each custom_id in its files once."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tests.batches import Batches, Json, line
from tests.faults.gate import COMPLETION, INGESTION, RESULTS, Gate, gate
from tests.faults.pace import held_stack
from tests.faults.processes import again, killed, late, stopped
from tests.stack import Stack, eventually, stack_in_temporary_directory

LEASE = {
    "CARPOOL_LEASE_SECONDS": "5",
    "CARPOOL_DATABASE_TIMEOUT_SECONDS": "3",
    "CARPOOL_CLEAN_SECONDS": "1",
}
PACE = {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "300"} | LEASE
MANY = 12_000
"""Six chunks of 2,000 lines, of which ingestion queues one at a time."""
SOME = 2000
"""At 256 together and 300 ms each, more than two seconds of work."""
CHUNKS = 1
"""So many are queued where ingestion is held up."""
HELD_LINES = 200
WORKER = "worker simulated-1"
INGESTED = "select ingested from batches where id = $1::uuid"
ROWS = """
select (select count(*) from requests where batch_id = $1::uuid) as requests,
    (select count(*) from results where batch_id = $1::uuid) as results,
    (select count(*) from queue where batch_id = $1::uuid) as waiting,
    (select count(*) from deltas) as deltas
"""
LOST = """
select count(*) from attempts a join requests r on r.id = a.id
where r.batch_id = $1::uuid and a.outcome = 'lost'
"""
WRITTEN = """
select count(*) from files
where purpose = 'batch_output' and filename like '%' || replace($1::uuid::text, '-', '') || '%'
"""
HELD = """
select count(*) from queue q join runs r on r.id = q.owner
join processes p on p.id = r.process_id where p.pid = $1 and p.ended_at is null
"""
OWNERS = "select count(distinct owner) from queue where batch_id = $1::uuid and state = 1"
SHARES = "select worker from results union select worker from attempts"


def many(number: int) -> list[Json]:
    return [line(f"r{n}") for n in range(number)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One whose engine takes its time; what befalls it in one test is over before the next."""
    with stack_in_temporary_directory(PACE) as started:
        yield started


@pytest.fixture(scope="module")
def quick_stack() -> Iterator[Stack]:
    """One whose engine takes no time, for faults in what comes before it."""
    with stack_in_temporary_directory(LEASE) as started:
        yield started


@asynccontextmanager
async def batch_of(stack: Stack, number: int) -> AsyncIterator[Json]:
    """A batch for a fault to befall; after it, proven to be complete in files and tables."""
    async with stack.http() as http:
        made = await Batches(http).create(many(number))
    yield made
    await proven(stack, made, number)


@asynccontextmanager
async def batch_held(
    stack: Stack, number: int, event: str, *, passing: int = 0
) -> AsyncIterator[tuple[Json, Gate]]:
    """The same, held up at an event until the fault has befallen it."""
    async with stack.http() as http, gate(stack, event, passing=passing) as closed:
        made = await Batches(http).create(many(number))
        await closed.held()
        yield made, closed
    await proven(stack, made, number)


async def proven(stack: Stack, batch: Json, number: int) -> None:
    """Assert that a batch ends complete, in files and tables."""
    async with stack.http() as http:
        batches = Batches(http)
        ended = await batches.ended(batch["id"])
        assert ended["status"] == "completed", ended
        output, _ = await batches.proven(ended, (f"r{n}" for n in range(number)))
    assert len(output) == number
    assert ended["usage"]["output_tokens"] == 2 * number
    [rows] = await stack.fetch(ROWS, name(batch))
    assert dict(rows) == {"requests": number, "results": number, "waiting": 0, "deltas": 0}


def name(batch: Json) -> str:
    return str(batch["id"].removeprefix("batch_"))


async def test_jobs_killed_during_ingestion(quick_stack: Stack) -> None:
    async with batch_held(quick_stack, MANY, INGESTION, passing=CHUNKS) as (batch, closed):
        before = 0
        for _ in range(3):
            await closed.held()
            ingested = await quick_stack.value(INGESTED, name(batch))
            assert before < ingested < MANY
            await killed(quick_stack, "jobs")
            await closed.turn_away(CHUNKS)
            before = ingested


async def test_jobs_killed_while_the_file_is_judged(quick_stack: Stack) -> None:
    """Its last step, which makes the batch valid, is held up until the process is dead."""
    async with quick_stack.http() as http:
        batches = Batches(http)
        file = await batches.upload(many(SOME))
        old = quick_stack.pid("jobs")
        with stopped(old):
            made = await batches.of_file(file)
            assert made["status"] == "validating"
            os.kill(old, signal.SIGKILL)
        await again(quick_stack, "jobs", old)
        ended = await batches.ended(made["id"])
        await batches.proven(ended, (f"r{n}" for n in range(SOME)))


async def test_a_worker_killed_in_mid_batch() -> None:
    """Twice, when it holds nothing but lines that it does not answer, and the others are stored."""
    quick = {"carpool_simulate": {"milliseconds_per_token": 1}}
    items = [line(f"r{n}", body=quick if n >= HELD_LINES else {}) for n in range(SOME)]
    with held_stack(LEASE) as (stack, pace):
        async with stack.http() as http:
            batch = await Batches(http).create(items)
        for kill in range(2):
            await eventually(lambda: _all_but_held(stack, batch))
            if kill:
                pace.quicken()
            await killed(stack, WORKER)
        await proven(stack, batch, SOME)
        assert await stack.value(LOST, name(batch)) == 2 * HELD_LINES


async def test_jobs_killed_while_files_are_written(stack: Stack) -> None:
    """Where the first file is noted it is held up, killed there, and let go on by another."""
    async with batch_of(stack, SOME) as batch, stack.locked("files"):
        await eventually(lambda: _status(stack, batch, "finalizing"))
        await eventually(stack.blocked)
        await killed(stack, "jobs")
    assert await stack.value(WRITTEN, name(batch)) >= 1
    await eventually(lambda: _one_file(stack, batch))


async def test_jobs_killed_between_the_files_and_the_batchs_end(stack: Stack) -> None:
    """The files are whole and the batch does not know them: they are written anew, shown once."""
    async with batch_held(stack, SOME, COMPLETION) as (batch, closed):
        await killed(stack, "jobs")
        await closed.turn_away(0)
    await eventually(lambda: _one_file(stack, batch))


async def test_redis_emptied_in_mid_batch(stack: Stack) -> None:
    async with (
        Redis.from_url(stack.redis_url) as redis,
        batch_held(stack, SOME, RESULTS, passing=SOME // 4) as (_, closed),
    ):
        await redis.flushall()
        await closed.turn_away(SOME // 4)
        await closed.held()
        await redis.flushall()


async def test_redis_killed_in_mid_batch(stack: Stack) -> None:
    async with batch_held(stack, SOME, RESULTS, passing=SOME // 4) as (_, closed):
        await killed(stack, "valkey")
        await closed.turn_away(SOME // 4)
        await closed.held()
        await killed(stack, "valkey")


async def test_postgres_restarted_in_mid_batch(stack: Stack) -> None:
    async with batch_held(stack, SOME, RESULTS, passing=SOME // 2):
        await killed(stack, "postgres", signal.SIGINT)


async def test_postgres_restarted_during_ingestion(quick_stack: Stack) -> None:
    async with batch_held(quick_stack, MANY, INGESTION, passing=CHUNKS):
        await killed(quick_stack, "postgres")


async def test_two_workers_on_one_batch_and_one_is_killed() -> None:
    with stack_in_temporary_directory(PACE, options=("--workers", "2")) as stack:
        await eventually(lambda: _two_runs(stack))
        async with batch_held(stack, 2 * SOME, RESULTS, passing=SOME // 2) as (batch, _):
            await eventually(lambda: _two_owners(stack, batch))
            await killed(stack, WORKER)
        assert len(await stack.fetch(SHARES)) >= 2


async def test_jobs_stopped_during_ingestion_and_taken_over_write_nothing_after(
    quick_stack: Stack,
) -> None:
    """Taken for dead after its lease, it comes back to find each of its steps refused."""
    async with batch_held(quick_stack, MANY, INGESTION, passing=CHUNKS) as (batch, closed):
        with late(quick_stack, "jobs"), stopped(quick_stack.pid("jobs")):
            await closed.open()
            await eventually(lambda: _ingested(quick_stack, batch, MANY), 60)
    assert "job_bug" not in quick_stack.output()


async def test_everything_told_to_end_in_mid_batch_and_started_again(stack: Stack) -> None:
    async with batch_held(stack, SOME, RESULTS, passing=SOME // 2) as (_, closed):
        await closed.open()
        for child in ("jobs", WORKER, "api"):
            await killed(stack, child, signal.SIGTERM)


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_batch_that_ends_while_its_file_is_still_read(quick_stack: Stack, end: str) -> None:
    """Lines that are queued, and run meanwhile, and lines that never were: each in a file once."""
    async with (
        quick_stack.http() as http,
        gate(quick_stack, INGESTION, passing=CHUNKS) as closed,
    ):
        batches = Batches(http)
        batch = await batches.create(many(MANY))
        await closed.held()
        with stopped(quick_stack.pid("jobs")):
            await closed.open()
            await eventually(lambda: _some_done(quick_stack, batch))
            if end == "cancel":
                await batches.cancel(batch["id"])
            else:
                expire = "update batches set expires_at = now() where id = $1::uuid"
                await quick_stack.fetch(expire, name(batch))
                await eventually(lambda: _status(quick_stack, batch, "finalizing"))
        ended = await batches.ended(batch["id"])
        assert ended["status"] == ("cancelled" if end == "cancel" else "expired")
        output, error = await batches.proven(ended, (f"r{n}" for n in range(MANY)))
        assert len(error) > len(output)
        assert {item["error"]["code"] for item in error} == {f"batch_{ended['status']}"}
        [rows] = await quick_stack.fetch(ROWS, name(batch))
        assert rows["requests"] == rows["results"] < MANY


async def _one_file(stack: Stack, batch: Json) -> bool:
    """Whether the cleaning has left no more than the file that the batch ended with."""
    return bool(await stack.value(WRITTEN, name(batch)) == 1)


async def _status(stack: Stack, batch: Json, status: str) -> bool:
    async with stack.http() as http:
        return bool((await Batches(http).get(batch["id"]))["status"] == status)


async def _two_runs(stack: Stack) -> bool:
    return bool(await stack.value("select count(*) from runs where ended_at is null") == 2)


async def _two_owners(stack: Stack, batch: Json) -> bool:
    return bool(await stack.value(OWNERS, name(batch)) == 2)


async def _all_but_held(stack: Stack, batch: Json) -> bool:
    """Whether the worker that lives holds these lines, and the others are done."""
    [rows] = await stack.fetch(ROWS, name(batch))
    held = await stack.value(HELD, stack.pids().get(WORKER, 0))
    return bool((held, rows["results"]) == (HELD_LINES, SOME - HELD_LINES))


async def _some_done(stack: Stack, batch: Json) -> bool:
    [rows] = await stack.fetch(ROWS, name(batch))
    return bool(rows["results"] > 0)


async def _ingested(stack: Stack, batch: Json, number: int) -> bool:
    return bool(await stack.value(INGESTED, name(batch)) == number)
