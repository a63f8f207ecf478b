"""A drain holds for a worker over its restarts, and for no other."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from carpool.ids import new_id
from db.processes import Process
from db.workers import WorkerState, list_workers, pause_worker, resume_worker
from tests.integration.sweeping import sweep_now

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

LEASE_SECONDS = 150.0


async def started(bench: "Bench", seat: str | None = None, backend: str = "engine") -> Process:
    """A worker that has just entered."""
    worker = Process(new_id(), "worker", seat, backend=backend)
    await worker.enter(bench.database)
    return worker


async def drained(bench: "Bench", seat: str | None = None) -> Process:
    """One that an operator has drained, and that knows it."""
    worker = await started(bench, seat)
    await pause_worker(bench.database, worker.id)
    assert await holds_back(bench, worker)
    return worker


async def holds_back(bench: "Bench", worker: Process) -> bool:
    """Whether a worker begins nothing, as its next heartbeat learns."""
    assert await worker.beat(bench.database)
    return worker.paused


async def later(bench: "Bench", interval: str) -> None:
    """Let some time pass for all that is known of processes, and sweep."""
    await bench.sql(
        "update processes set started_at = started_at - $1::text::interval,"
        " heartbeat_at = heartbeat_at - $1::text::interval,"
        " ended_at = ended_at - $1::text::interval",
        interval,
    )
    await swept(bench)


async def swept(bench: "Bench") -> None:
    await sweep_now(bench.database, lease_seconds=LEASE_SECONDS, grace_seconds=1)


async def states(bench: "Bench") -> dict[object, WorkerState]:
    """What an operator sees, by process."""
    return {view.id: view.state for view in await list_workers(bench.database)}


@pytest.mark.parametrize("seat", ["here:engine-1", None])
async def test_a_worker_that_ended_in_order_is_drained_when_it_starts_anew(
    bench: "Bench", seat: str | None
) -> None:
    """Hours later, and again after that, until it is resumed."""
    worker = await drained(bench, seat)
    for _ in range(2):
        await worker.leave(bench.database)
        await later(bench, "5 hours")
        worker = await started(bench, seat)
        assert worker.paused
        assert await states(bench) == {worker.id: WorkerState.PAUSED}
    await resume_worker(bench.database, worker.id)
    assert not await holds_back(bench, worker)
    await worker.leave(bench.database)
    assert not (await started(bench, seat)).paused


async def test_who_takes_the_seat_of_a_drained_worker_is_drained_at_once(bench: "Bench") -> None:
    """It was killed; its row is then that of any dead worker."""
    old = await drained(bench, "here:engine-1")
    worker = await started(bench, "here:engine-1")
    assert worker.paused
    assert await states(bench) == {worker.id: WorkerState.PAUSED, old.id: WorkerState.DEAD}
    await later(bench, "2 hours")
    assert old.id not in await states(bench)


async def test_without_a_seat_it_is_known_by_its_host_and_backend(bench: "Bench") -> None:
    """Held back while its predecessor may live, and drained once that is dead."""
    await drained(bench)
    worker = await started(bench)
    assert worker.paused
    assert not (await started(bench, backend="another")).paused
    assert not (await started(bench, "a seat of its own")).paused
    await bench.sql(
        "update processes set heartbeat_at = now() - interval '160 s' where paused_at is not null"
    )
    await swept(bench)
    assert await holds_back(bench, worker)
    assert (await states(bench))[worker.id] is WorkerState.PAUSED


async def test_a_drained_worker_that_lives_holds_back_no_other_of_its_host(
    bench: "Bench",
) -> None:
    """And of those that start after its death, one is drained in its place."""
    old = await drained(bench)
    beside = await started(bench)
    assert await holds_back(bench, old)
    assert not await holds_back(bench, beside)
    await old.leave(bench.database)
    assert not await holds_back(bench, beside)
    heirs = [await started(bench), await started(bench)]
    assert [await holds_back(bench, heir) for heir in heirs] == [True, False]
    assert not await holds_back(bench, beside)


async def test_one_that_is_resumed_before_its_predecessor_is_known_to_be_dead_goes_on(
    bench: "Bench",
) -> None:
    await drained(bench)
    worker = await started(bench)
    assert worker.paused
    await resume_worker(bench.database, worker.id)
    assert not await holds_back(bench, worker)
    await later(bench, "160 seconds")
    assert not (await started(bench)).paused


async def test_a_heartbeat_and_a_resume_lock_the_predecessor_first(bench: "Bench") -> None:
    """Neither waits for the other with a row that the other needs."""
    old = await drained(bench)
    worker = await started(bench)
    touch = "update processes set heartbeat_at = heartbeat_at where id = $1"
    await bench.sql(touch, old.id)  # its row now lies behind the other's
    beats = await bench.open_lane()
    await beats.fetch(touch, old.id)
    resumes = await bench.open_lane()
    resumed = asyncio.create_task(resume_worker(resumes, worker.id))
    await bench.until_blocked(resumes.pid)
    await beats.fetch(touch, worker.id)
    await beats.commit()
    await resumed
    await resumes.commit()
    assert not await holds_back(bench, worker)


async def test_a_drain_is_forgotten_a_day_after_its_worker(bench: "Bench") -> None:
    """One that died is shown for an hour, and kept in mind for the rest of the day."""
    worker = await drained(bench)
    await later(bench, "59 minutes")
    assert await states(bench) == {worker.id: WorkerState.DEAD}
    await later(bench, "2 hours")
    assert await states(bench) == {}
    assert await bench.value("select count(*) from processes") == 1
    await later(bench, "22 hours")
    assert await bench.value("select count(*) from processes") == 0
    assert not (await started(bench)).paused
