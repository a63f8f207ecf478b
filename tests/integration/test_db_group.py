"""A group commit stores each item once, whatever breaks, and one bad item fails alone."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from carpool.errors import Unavailable
from db.database import Database, DatabaseAway, Lane
from db.finish import NOT_MINE
from db.follow import Origin
from db.group import GroupCommit
from db.submit import SUBMIT, Submission, columns, submit

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

ITEMS = 200
PATIENCE_SECONDS = 90.0
SOON_SECONDS = 60.0


class CutLane(Lane):
    """A lane that is cut once: while its insert waits for a lock, or after it has committed."""

    def __init__(self, lane: Lane, bench: "Bench", when: str) -> None:
        self._lane = lane
        self._bench = bench
        self._when = when
        self.cuts = 0

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        if sql != SUBMIT or self.cuts:
            return await self._lane.fetch(sql, *arguments)
        self.cuts += 1
        if self._when == "before":
            return await cut(self._bench, "queue", self._lane.fetch(sql, *arguments))
        await self._lane.fetch(sql, *arguments)
        self._lane.drop()
        raise DatabaseAway("the answer was lost")

    async def close(self) -> None:
        await self._lane.close()


async def cut(
    bench: "Bench", table: str, statement: Coroutine[Any, Any, Sequence[Any]]
) -> Sequence[Any]:
    """Run a statement whose connection is cut by the server before it could change a table."""
    barrier = await bench.open_lane()
    await barrier.fetch(f"lock table {table} in share mode")
    running = asyncio.create_task(statement)
    pid = await bench.blocked_pid()
    await bench.sql("select pg_terminate_backend($1)", pid)
    try:
        return await running
    finally:
        await barrier.rollback()


class CutDatabase(Database):
    """Gives out lanes that are cut."""

    def __init__(self, bench: "Bench", when: str) -> None:
        super().__init__(bench.url, pool_size=1)
        self._bench = bench
        self._when = when
        self.lanes: list[CutLane] = []

    def lane(self) -> Lane:
        lane = CutLane(super().lane(), self._bench, self._when)
        self.lanes.append(lane)
        return lane


async def started(
    database: Database, flush: Any, *, limit: int = 256, lanes: int = 1
) -> AsyncIterator[GroupCommit[Any, Any]]:
    group: GroupCommit[Any, Any] = GroupCommit(
        database, flush, limit=limit, lanes=lanes, patience_seconds=PATIENCE_SECONDS
    )
    group.start()
    try:
        yield group
    finally:
        await group.close()


@pytest.fixture
async def submissions(bench: "Bench") -> AsyncIterator[GroupCommit[Submission, Origin | None]]:
    async for group in started(bench.database, submit):
        yield group


def items(**strange: Any) -> list[Submission]:
    """As many items as a group has, the middle one strange."""
    from tests.integration.db_fixtures import submission

    middle = ITEMS // 2
    return [submission(**(strange if place == middle else {})) for place in range(ITEMS)]


async def settle(group: GroupCommit[Any, Any], handed: Sequence[Any]) -> list[Any]:
    """What becomes of each, within a time that a broken connection's patience does not fit in."""
    async with asyncio.timeout(SOON_SECONDS):
        return await asyncio.gather(*(group.put(item) for item in handed), return_exceptions=True)


@pytest.mark.parametrize(
    "strange",
    [{"person": "no\0body"}, {"person": "no\ud800body"}, {"prefix_key": 2**63}],
    ids=["a NUL", "a lone surrogate", "a key beyond int8"],
)
async def test_one_bad_item_in_the_middle_of_a_group_fails_alone(
    bench: "Bench", submissions: GroupCommit[Submission, Origin | None], strange: dict[str, Any]
) -> None:
    handed = items(**strange)
    outcomes = await settle(submissions, handed)
    refused = [i for i, outcome in enumerate(outcomes) if outcome is not None]
    assert refused == [ITEMS // 2]
    assert isinstance(outcomes[ITEMS // 2], asyncpg.PostgresError)
    for table in ("queue", "requests"):
        stored = {row["id"] for row in await bench.sql(f"select id from {table}")}
        assert stored == {item.id for i, item in enumerate(handed) if i != ITEMS // 2}


@pytest.mark.parametrize(
    "strange",
    [
        {"upstream": "x\0"},
        {"upstream": "x\udfff"},
        {"prompt_tokens": 2**40},
        {"status_code": 2**20},
    ],
    ids=["a NUL", "a lone surrogate", "tokens beyond int4", "status beyond int2"],
)
async def test_one_bad_answer_in_the_middle_of_a_group_fails_alone(
    bench: "Bench", strange: dict[str, Any]
) -> None:
    from tests.integration.db_fixtures import result

    await bench.fill(ITEMS)
    run = await bench.run()
    claims = await run.claim(ITEMS)
    middle = ITEMS // 2
    results = [result(c, **(strange if i == middle else {})) for i, c in enumerate(claims)]
    async for group in started(bench.database, run.finisher.finish):
        outcomes = await settle(group, results)
    assert [i for i, o in enumerate(outcomes) if o is not None] == [middle]
    assert isinstance(outcomes[middle], asyncpg.PostgresError)
    assert await bench.value("select count(*) from results") == ITEMS - 1
    assert [r["id"] for r in await bench.sql("select id from queue")] == [claims[middle].id]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_cut_before_or_after_the_commit_doubles_nothing(
    bench: "Bench", when: str
) -> None:
    database = CutDatabase(bench, when)
    try:
        async for group in started(database, submit):
            assert await settle(group, handed := items()) == [None] * ITEMS
    finally:
        await database.close()
    assert sum(lane.cuts for lane in database.lanes) == 1
    for table in ("queue", "requests"):
        stored = [row["id"] for row in await bench.sql(f"select id from {table} order by id")]
        assert stored == sorted(item.id for item in handed)


async def test_a_submit_again_waits_for_the_first_that_still_commits_and_doubles_nothing(
    bench: "Bench",
) -> None:
    """The client has given up on the first statement, which the server goes on with."""
    first = await bench.open_lane()
    handed = items()
    await first.fetch(SUBMIT, *columns(handed))
    lane = bench.lane()
    await lane.fetch("select 1")
    [row] = await lane.fetch("select pg_backend_pid() as pid")
    again = asyncio.create_task(submit(lane, handed, True))
    await bench.until_blocked(row["pid"])
    await first.commit()
    with pytest.raises(asyncpg.UniqueViolationError):
        await again
    await submit(lane, handed, True)
    assert await bench.value("select count(*) from queue") == ITEMS
    assert await bench.value("select count(*) from requests") == ITEMS


@pytest.mark.parametrize("committed", [True, False])
async def test_a_finish_retried_after_a_lost_connection_leaves_one_result_each(
    bench: "Bench", committed: bool
) -> None:
    """Where the first had committed, the second says so: the poll of the API delivers it."""
    from tests.integration.db_fixtures import result

    await bench.fill(ITEMS)
    run = await bench.run()
    results = [result(c) for c in await run.claim(ITEMS)]
    tries = 0

    async def flush(lane: Lane, group: Sequence[Any], again: bool) -> Sequence[Any]:
        nonlocal tries
        tries += 1
        if tries > 1:
            assert again
            return await run.finisher.finish(lane, group, again)
        first = run.finisher.finish(lane, group, again)
        if not committed:
            return await cut(bench, "queue", first)
        await first
        lane.drop()
        raise DatabaseAway("the answer was lost")

    async for group in started(bench.database, flush):
        outcomes = await settle(group, results)
    assert set(outcomes) == {NOT_MINE if committed else None}
    assert tries == 2
    assert await bench.value("select count(*) from results") == ITEMS
    assert await bench.value("select sum(completed) from deltas") == ITEMS


async def test_what_cannot_be_stored_within_the_patience_fails_as_unavailable(
    bench: "Bench",
) -> None:
    async def away(lane: Lane, group: Sequence[Any], again: bool) -> Sequence[None]:
        raise DatabaseAway("gone")

    group: GroupCommit[int, None] = GroupCommit(
        bench.database, away, limit=8, lanes=1, patience_seconds=0.1
    )
    group.start()
    outcomes = await settle(group, range(20))
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    await group.close()


async def test_a_bug_of_a_flush_fails_its_items_and_not_the_lane(bench: "Bench") -> None:
    async def flush(lane: Lane, group: Sequence[int], again: bool) -> Sequence[int]:
        if 3 in group:
            raise ZeroDivisionError
        return group

    async for group in started(bench.database, flush, limit=1):
        outcomes = await settle(group, range(6))
    assert [type(o) for o in outcomes] == [int, int, int, ZeroDivisionError, int, int]


async def test_drain_returns_when_all_is_stored(bench: "Bench") -> None:
    from tests.integration.db_fixtures import submission

    async for group in started(bench.database, submit, limit=16, lanes=2):
        futures = [group.put(submission()) for _ in range(ITEMS)]
        await group.drain()
        assert all(future.done() for future in futures)
        await group.drain()
    assert await bench.value("select count(*) from queue") == ITEMS


async def test_a_caller_that_went_away_harms_no_one(
    bench: "Bench", submissions: GroupCommit[Submission, Origin | None]
) -> None:
    handed = items()
    futures = [submissions.put(item) for item in handed]
    futures[7].cancel()
    async with asyncio.timeout(SOON_SECONDS):
        await asyncio.gather(*futures[:7], *futures[8:])
    assert await bench.value("select count(*) from queue") == ITEMS
