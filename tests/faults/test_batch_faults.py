"""Whatever befalls its processes, a batch ends completed, with each custom_id in its files once."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tests.batches import Batches, Json, line
from tests.faults.processes import again, killed, late, stopped
from tests.stack import Stack, eventually, stack_in_temporary_directory

LEASE = {
    "CARPOOL_LEASE_SECONDS": "2",
    "CARPOOL_DATABASE_TIMEOUT_SECONDS": "3",
    "CARPOOL_CLEAN_SECONDS": "1",
}
PACE = {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "300"} | LEASE
MANY = 30_000
"""Enough for a fault in mid-ingestion."""
SOME = 2000
"""At 256 together and 300 ms each, more than two seconds of work."""
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
HOLD_UP_THE_END = """
create table gate ();

create function hold_up() returns trigger language plpgsql as $$
begin
    lock table gate in share mode;
    return new;
end $$
"""
HELD_UP = """
create trigger held_up before update on batches
for each row when (new.status = 4) execute function hold_up()
"""
LET_GO = "drop trigger held_up on batches"
TERMINATE_BLOCKED = """
select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'
"""


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
        batches = Batches(http)
        made = await batches.create(many(number))
        yield made
        ended = await batches.ended(made["id"])
        assert ended["status"] == "completed", ended
        output, _ = await batches.proven(ended, (f"r{n}" for n in range(number)))
        assert len(output) == number
        assert ended["usage"]["output_tokens"] == 2 * number
    [rows] = await stack.fetch(ROWS, name(made))
    assert dict(rows) == {"requests": number, "results": number, "waiting": 0, "deltas": 0}


def name(batch: Json) -> str:
    return str(batch["id"].removeprefix("batch_"))


async def ingesting(stack: Stack, batch: Json, number: int) -> int:
    """How many lines are queued, once it is a part of them."""

    async def part() -> int | None:
        ingested = int(await stack.value(INGESTED, name(batch)))
        return ingested if 0 < ingested < number else None

    return await eventually(part)


async def half_done(stack: Stack, batch: Json, number: int) -> None:
    """Return in mid-batch."""

    async def half() -> bool:
        [rows] = await stack.fetch(ROWS, name(batch))
        return bool(number // 4 < rows["results"] < number * 3 // 4)

    await eventually(half)


async def test_jobs_killed_during_ingestion(quick_stack: Stack) -> None:
    async with batch_of(quick_stack, MANY) as batch:
        before = 0
        for _ in range(3):
            ingested = await ingesting(quick_stack, batch, MANY)
            assert ingested >= before
            await killed(quick_stack, "jobs")
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


async def test_a_worker_killed_in_mid_batch(stack: Stack) -> None:
    async with batch_of(stack, SOME) as batch:
        for _ in range(2):
            await half_done(stack, batch, SOME)
            await killed(stack, WORKER)
    assert 0 < await stack.value(LOST, name(batch)) <= 2 * 256


async def test_jobs_killed_while_files_are_written(stack: Stack) -> None:
    """Where the first file is noted it is held up, killed there, and let go on by another."""
    async with batch_of(stack, SOME) as batch:
        await half_done(stack, batch, SOME)
        async with stack.locked("files"):
            await eventually(lambda: _status(stack, batch, "finalizing"))
            await eventually(stack.blocked)
            await killed(stack, "jobs")
    assert await stack.value(WRITTEN, name(batch)) >= 1
    await eventually(lambda: _one_file(stack, batch))


async def test_jobs_killed_between_the_files_and_the_batchs_end(stack: Stack) -> None:
    """The files are whole and the batch does not know them: they are written anew, shown once."""
    for statement in HOLD_UP_THE_END.split(";\n\n"):
        await stack.fetch(statement)
    await stack.fetch(HELD_UP)
    async with batch_of(stack, SOME) as batch, stack.locked("gate"):
        await eventually(stack.blocked)
        await killed(stack, "jobs")
        await stack.fetch(TERMINATE_BLOCKED)
    await stack.fetch(LET_GO)
    await eventually(lambda: _one_file(stack, batch))


async def test_redis_emptied_in_mid_batch(stack: Stack) -> None:
    async with batch_of(stack, SOME) as batch, Redis.from_url(stack.redis_url) as redis:
        await redis.flushall()
        await half_done(stack, batch, SOME)
        await redis.flushall()


async def test_redis_killed_in_mid_batch(stack: Stack) -> None:
    async with batch_of(stack, SOME) as batch:
        await killed(stack, "valkey")
        await half_done(stack, batch, SOME)
        await killed(stack, "valkey")


async def test_postgres_restarted_in_mid_batch(stack: Stack) -> None:
    async with batch_of(stack, SOME) as batch:
        await half_done(stack, batch, SOME)
        await killed(stack, "postgres", signal.SIGINT)


async def test_postgres_restarted_during_ingestion(quick_stack: Stack) -> None:
    async with batch_of(quick_stack, MANY) as batch:
        await ingesting(quick_stack, batch, MANY)
        await killed(quick_stack, "postgres")


async def test_two_workers_on_one_batch_and_one_is_killed() -> None:
    with stack_in_temporary_directory(PACE, options=("--workers", "2")) as stack:
        await eventually(lambda: _two_runs(stack))
        async with batch_of(stack, 2 * SOME) as batch:
            await half_done(stack, batch, 2 * SOME)
            await killed(stack, WORKER)
        shares = await stack.fetch("select worker, count(*) as n from results group by worker")
        assert len(shares) >= 2


async def test_jobs_stopped_during_ingestion_and_taken_over_write_nothing_after(
    quick_stack: Stack,
) -> None:
    """Taken for dead after its lease, it comes back to find each of its steps refused."""
    async with batch_of(quick_stack, MANY) as batch:
        await ingesting(quick_stack, batch, MANY)
        with late(quick_stack, "jobs"), stopped(quick_stack.pid("jobs")):
            await eventually(lambda: _ingested(quick_stack, batch, MANY), 30)
    assert "job_bug" not in quick_stack.output()


async def test_everything_told_to_end_in_mid_batch_and_started_again(stack: Stack) -> None:
    async with batch_of(stack, SOME) as batch:
        await half_done(stack, batch, SOME)
        for child in ("jobs", WORKER, "api"):
            await killed(stack, child, signal.SIGTERM)


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_batch_that_ends_while_its_file_is_still_read(quick_stack: Stack, end: str) -> None:
    """Lines that are queued, and run meanwhile, and lines that never were: each in a file once."""
    async with quick_stack.http() as http:
        batches = Batches(http)
        batch = await batches.create(many(MANY))
        await ingesting(quick_stack, batch, MANY)
        with stopped(quick_stack.pid("jobs")):
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


async def _some_done(stack: Stack, batch: Json) -> bool:
    [rows] = await stack.fetch(ROWS, name(batch))
    return bool(rows["results"] > 0)


async def _ingested(stack: Stack, batch: Json, number: int) -> bool:
    return bool(await stack.value(INGESTED, name(batch)) == number)
