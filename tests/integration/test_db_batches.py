"""A batch moves on by its owner alone, each step once, whoever cancels, cleans or takes over."""

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import line_id, new_id
from carpool.states import BatchStatus, FileState, Outcome
from db.batch_jobs import (
    Job,
    QueuedLine,
    begin,
    disown,
    end,
    ended_lines,
    fail,
    own,
    queue_lines,
    settled,
)
from db.batch_sweep import fold, sweep_batches
from db.batches import NewBatch, cancel_batch, create_batch, find_batch
from db.files import begin_file

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

TEAM = 1
MODEL = "tiny"


class Owned:
    """A batch that a living process has taken over."""

    def __init__(self, bench: "Bench", batch: UUID, process: UUID) -> None:
        self.bench = bench
        self.database = bench.database
        self.id = batch
        self.process = process

    async def begin(self, total: int) -> Job:
        begun = await begin(
            self.database, self.id, self.process, model=MODEL, total=total, tokens=total
        )
        assert begun is not None
        return begun

    async def queue(self, first: int, last: int, *, before: int | None = None) -> bool:
        """Queue the lines from one number to another."""
        return await queue_lines(
            self.database,
            self.id,
            self.process,
            [line(self.id, number) for number in range(first, last + 1)],
            before=first - 1 if before is None else before,
            last_line=last,
            last_byte=100 * last,
        )

    async def file(self) -> UUID:
        """A file that the process is writing."""
        identifier = new_id()
        await begin_file(
            self.database,
            identifier=identifier,
            team_id=TEAM,
            key_id=UUID(int=1),
            purpose="batch_output",
            filename="f",
            writer=self.process,
            expires_at=None,
        )
        return identifier

    async def view(self) -> Any:
        found = await find_batch(self.database, self.id, team_id=TEAM)
        assert found is not None
        return found

    async def status(self) -> BatchStatus:
        found: BatchStatus = (await self.view()).status
        return found

    async def set(self, **columns: Any) -> None:
        for name, value in columns.items():
            await self.bench.sql(f"update batches set {name} = $2 where id = $1", self.id, value)


def line(batch: UUID, number: int) -> QueuedLine:
    return QueuedLine(line_id(batch, number), None, b"{}", f'"r{number}"', None, number, None)


async def batch_of(bench: "Bench", **changes: Any) -> UUID:
    values: dict[str, Any] = {
        "team_id": TEAM,
        "key_id": UUID(int=1),
        "person": None,
        "endpoint": 0,
        "completion_window": "24h",
        "window_seconds": 86_400.0,
        "input_file_id": "file-1",
        "input_file": None,
        "metadata": None,
        "output_expires_seconds": None,
        "priority": 0,
        "dry_run": False,
        "fingerprint": UUID(int=1),
    }
    return await create_batch(bench.database, NewBatch(**values | changes))


@pytest.fixture
async def owned(bench: "Bench") -> Owned:
    made = Owned(bench, await batch_of(bench), await bench.process())
    assert await own(bench.database, made.id, made.process) is not None
    return made


async def test_of_many_processes_one_owns_a_batch(bench: "Bench") -> None:
    batch = await batch_of(bench)
    processes = [await bench.process() for _ in range(8)]
    found = await asyncio.gather(*(own(bench.database, batch, p) for p in processes))
    assert len([job for job in found if job is not None]) == 1


async def test_a_batch_is_taken_over_from_the_dead_and_the_idle_alone(owned: Owned) -> None:
    other = await owned.bench.process()
    assert await own(owned.database, owned.id, other) is None
    assert await own(owned.database, owned.id, owned.process) is not None
    await owned.bench.sql("update processes set ended_at = now() where id = $1", owned.process)
    assert await own(owned.database, owned.id, other) is not None
    await disown(owned.database, owned.id, owned.process)
    assert (await owned.bench.sql("select owner from batches"))[0]["owner"] == other
    await disown(owned.database, owned.id, other)
    assert await own(owned.database, owned.id, await owned.bench.process()) is not None


async def test_a_process_taken_for_dead_moves_nothing_on(owned: Owned) -> None:
    await owned.begin(4)
    assert await owned.queue(1, 2)
    other = await owned.bench.process()
    await owned.bench.sql("update processes set ended_at = now() where id = $1", owned.process)
    assert await own(owned.database, owned.id, other) is not None
    assert not await owned.queue(3, 4)
    file = await owned.file()
    await owned.set(status=2)
    assert await _end(owned, file) is None
    assert await owned.bench.value("select count(*) from requests") == 2
    assert await owned.bench.value("select count(*) from queue") == 2


async def test_a_chunk_is_queued_once(owned: Owned) -> None:
    """Again, by two at once, out of turn: only what follows the place of the row is taken."""
    await owned.begin(6)
    taken = await asyncio.gather(*(owned.queue(1, 2) for _ in range(4)))
    assert sorted(taken) == [False, False, False, True]
    assert not await owned.queue(1, 2)
    assert not await owned.queue(5, 6)
    assert await owned.queue(3, 4)
    job = await own(owned.database, owned.id, owned.process)
    assert job is not None
    assert (job.ingested, job.ingested_line, job.ingested_bytes) == (4, 4, 400)
    rows = await owned.bench.sql("select id, custom_id from requests order by id")
    assert [row["id"] for row in rows] == [line_id(owned.id, n) for n in range(1, 5)]
    assert [row["custom_id"] for row in rows] == ['"r1"', '"r2"', '"r3"', '"r4"']


async def test_a_chunk_and_a_cancel_come_one_after_the_other(owned: Owned) -> None:
    await owned.begin(4)
    lane = await owned.bench.open_lane()
    assert await cancel_batch(lane, owned.id, team_id=TEAM)
    queueing = asyncio.create_task(owned.queue(1, 2))
    await owned.bench.blocked_pid()
    await lane.commit()
    assert not await queueing
    assert await owned.bench.value("select count(*) from queue") == 0


async def test_a_cancel_while_the_file_is_judged_ends_it_at_once(owned: Owned) -> None:
    assert await cancel_batch(owned.database, owned.id, team_id=TEAM)
    assert await owned.status() is BatchStatus.CANCELLED
    assert not await fail(owned.database, owned.id, owned.process, "[]")
    begun = await begin(owned.database, owned.id, owned.process, model=MODEL, total=1, tokens=1)
    assert begun is None
    assert not await cancel_batch(owned.database, owned.id, team_id=TEAM)


async def test_nothing_of_a_stopped_batch_is_run_though_it_is_claimed(owned: Owned) -> None:
    from carpool.states import ServiceClass

    await owned.begin(4)
    assert await owned.queue(1, 4)
    run = await owned.bench.run()
    before = await run.claim(2, service_class=ServiceClass.BATCH)
    await cancel_batch(owned.database, owned.id, team_id=TEAM)
    after = await run.claim(2, service_class=ServiceClass.BATCH)
    assert [claim.stopped for claim in (*before, *after)] == [False, False, True, True]
    swept = await sweep_batches(owned.database)
    assert {ended.owner for ended in swept.ended} == {run.id}
    assert await run.finish([*before, *after]) == [UUID(int=0)] * 4
    outcomes = await owned.bench.sql("select outcome from results")
    assert [row["outcome"] for row in outcomes] == [Outcome.CANCELLED] * 4


async def test_ranks_are_claimed_one_before_the_other(bench: "Bench") -> None:
    from carpool.states import ServiceClass

    for priority in (-3, 7):
        batch = await batch_of(bench, priority=priority)
        made = Owned(bench, batch, await bench.process())
        await own(bench.database, batch, made.process)
        await made.begin(2)
        await made.queue(1, 2)
    run = await bench.run()
    claims = await run.claim(9, service_class=ServiceClass.BATCH, rank=-7)
    assert [claim.rank for claim in claims] == [-7, -7]
    assert [c.rank for c in await run.claim(9, service_class=ServiceClass.BATCH, rank=3)] == [3, 3]


async def test_a_batch_is_complete_with_its_last_line_and_not_before(owned: Owned) -> None:
    from carpool.states import ServiceClass

    await owned.begin(4)
    assert await owned.queue(1, 2)
    run = await owned.bench.run()
    await run.finish(await run.claim(2, service_class=ServiceClass.BATCH))
    assert await fold(owned.database) == ([owned.id], [])
    assert (await owned.view()).completed == 2
    assert await owned.queue(3, 4)
    assert not (await settled(owned.database, owned.id))[0]
    await run.finish(await run.claim(2, service_class=ServiceClass.BATCH))
    assert await settled(owned.database, owned.id) == (True, False)
    assert await fold(owned.database) == ([owned.id], [owned.id])
    assert await settled(owned.database, owned.id) == (True, True)
    assert await owned.status() is BatchStatus.FINALIZING
    lines = await ended_lines(owned.database, owned.id, after=owned.id, limit=3)
    assert [item.custom_id for item in lines] == ['"r1"', '"r2"', '"r3"']
    rest = await ended_lines(owned.database, owned.id, after=lines[-1].id, limit=3)
    assert [item.custom_id for item in rest] == ['"r4"']


async def test_a_batch_ends_with_its_files_in_one_step(owned: Owned) -> None:
    await owned.set(status=2)
    file = await owned.file()
    assert await _end(owned, file) is BatchStatus.COMPLETED
    [row] = await owned.bench.sql("select state, bytes from files")
    assert (row["state"], row["bytes"]) == (FileState.READY, 7)
    assert (await owned.view()).output_file_id == file


async def test_a_batch_does_not_end_with_a_file_that_was_cleaned_away(owned: Owned) -> None:
    await owned.set(status=2)
    kept, lost = await owned.file(), await owned.file()
    await owned.bench.sql("update files set state = 2 where id = $1", lost)
    ended = await end(owned.database, owned.id, owned.process, output=(kept, 7), error=(lost, 7))
    assert ended is None
    assert await owned.status() is BatchStatus.FINALIZING
    rows = await owned.bench.sql("select state from files where id = $1", kept)
    assert rows[0]["state"] == FileState.PENDING


@pytest.mark.parametrize(
    ("columns", "status", "moment"),
    [
        ({"status": 2}, BatchStatus.COMPLETED, "completed_at"),
        ({"status": 2, "expiring": True}, BatchStatus.EXPIRED, "expired_at"),
        ({"status": 3}, BatchStatus.CANCELLED, "cancelled_at"),
    ],
)
async def test_how_a_batch_ends(
    owned: Owned, columns: dict[str, Any], status: BatchStatus, moment: str
) -> None:
    await owned.set(**columns)
    ended = await end(owned.database, owned.id, owned.process, output=None, error=None)
    assert ended is status
    view = await owned.view()
    assert (view.status, view.ended) == (status, True)
    set_moments = [
        name
        for name in ("completed_at", "failed_at", "expired_at", "cancelled_at")
        if getattr(view, name) is not None
    ]
    assert set_moments == [moment]


async def test_an_open_batch_without_a_job_is_found_and_one_at_work_is_not(owned: Owned) -> None:
    assert (await sweep_batches(owned.database)).idle == []
    await disown(owned.database, owned.id, owned.process)
    assert (await sweep_batches(owned.database)).idle == [owned.id]
    await own(owned.database, owned.id, owned.process)
    await owned.begin(1)
    assert await owned.queue(1, 1)
    await disown(owned.database, owned.id, owned.process)
    assert (await sweep_batches(owned.database)).idle == []


async def test_a_page_is_cut_where_its_bodies_fill_it(owned: Owned) -> None:
    from carpool.states import ServiceClass
    from tests.integration.db_fixtures import result

    await owned.begin(9)
    assert await owned.queue(1, 9)
    run = await owned.bench.run()
    claims = await run.claim(9, service_class=ServiceClass.BATCH)
    answers = [result(claim, body=b"x" * 3_000_000) for claim in claims]
    await run.finisher.finish(run.lane, answers, False)
    found, after = [], owned.id
    while page := await ended_lines(owned.database, owned.id, after=after, limit=100):
        assert len(page) <= 3
        found += [item.custom_id for item in page]
        after = page[-1].id
    assert found == [f'"r{number}"' for number in range(1, 10)]


async def test_lines_of_two_batches_never_mix(bench: "Bench") -> None:
    """Batches of one moment: their ranges of ids do not touch."""
    batches = [await batch_of(bench) for _ in range(50)]
    assert len(set(batches)) == 50
    firsts = sorted(batches)
    lasts = [line_id(batch, 2**32 - 1) for batch in firsts]
    assert all(last < first for last, first in zip(lasts, firsts[1:], strict=False))


async def _end(owned: Owned, file: UUID) -> BatchStatus | None:
    return await end(owned.database, owned.id, owned.process, output=(file, 7), error=None)
