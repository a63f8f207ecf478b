"""Leaders and followers that come and end at once are told apart by their locks."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy.engine import make_url

from carpool.ids import new_id
from carpool.states import Outcome, QueueState
from db import follow
from db.database import DatabaseAway, Lane
from db.end import CANCELLED, end_requests
from db.follow import RESOLVE, RESOLVE_SECONDS, Orphans, sweep_followers
from db.group import GroupCommit
from db.submit import submit
from tests.integration.twins import STORED, TWIN, answered, come, states
from tests.stack import eventually

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

pytest_plugins = ("tests.integration.db_fixtures",)

WAIT_SECONDS = 20.0


async def test_many_that_come_at_once_have_one_leader(bench: "Bench") -> None:
    from tests.integration.db_fixtures import submission

    lanes = [bench.lane() for _ in range(8)]
    items = [submission(fingerprint=TWIN, shareable=True) for _ in range(32)]
    await asyncio.gather(
        *(submit(lane, items[place::8], False) for place, lane in enumerate(lanes))
    )
    assert await bench.value("select count(*) from queue where leader is null") == 1
    assert await bench.value("select count(*) from queue") == 32
    run = await bench.run()
    [leader] = await run.claim(99)
    await answered(run, [leader])
    assert await bench.value("select count(*) from results where outcome = 0") == 32


async def test_one_that_comes_while_its_leader_ends_is_answered(bench: "Bench") -> None:
    """It locks the leader's row; the leader's end waits, and then finds it."""
    from tests.integration.db_fixtures import submission

    [first] = await come(bench)
    run = await bench.run()
    claims = await run.claim(1)
    coming = await bench.open_lane()
    late = submission(fingerprint=TWIN, shareable=True)
    await submit(coming, [late], False)
    finishing = asyncio.create_task(answered(run, claims))
    await bench.blocked_pid()
    await coming.commit()
    await finishing
    assert [row["id"] for row in await bench.sql(STORED)] == [first, late.id]


async def test_one_that_comes_after_its_leaders_end_leads(bench: "Bench") -> None:
    """The leader's end is not committed yet; who comes waits for it, and finds no leader."""
    from tests.integration.db_fixtures import result, submission

    await come(bench)
    run = await bench.run()
    claims = await run.claim(1)
    ending = await bench.open_lane()
    await run.finisher.finish(ending, [result(c) for c in claims], False)
    late = submission(fingerprint=TWIN, shareable=True)
    coming = asyncio.create_task(submit(bench.lane(), [late], False))
    await bench.blocked_pid()
    await ending.commit()
    await coming
    assert await states(bench) == [(late.id, QueueState.WAITING, None)]


async def test_a_cancel_that_meets_a_new_follower_orphans_none(bench: "Bench") -> None:
    """The cancel waits for the follower's coming, and may miss it; the sweep wakes it then."""
    from tests.integration.db_fixtures import submission

    [first] = await come(bench)
    coming = await bench.open_lane()
    late = submission(fingerprint=TWIN, shareable=True)
    await submit(coming, [late], False)
    cancelling = asyncio.create_task(end_requests(bench.lane(), [first], CANCELLED))
    await bench.blocked_pid()
    await coming.commit()
    await cancelling
    await sweep_followers(bench.lane())
    run = await bench.run()
    await answered(run, await run.claim(9))
    await sweep_followers(bench.lane())
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {first: 2, late.id: 0}


class LookedAt(Lane):
    """A run's lane, on which the sweep looks between a leader's end and that of its followers."""

    def __init__(self, bench: "Bench") -> None:
        super().__init__(make_url(bench.url), WAIT_SECONDS)
        self._bench = bench
        self._waits, self._resolved = asyncio.Event(), asyncio.Event()
        self.sweeping: asyncio.Task[Orphans] | None = None

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        if sql != RESOLVE:
            return await super().fetch(sql, *arguments)
        self.sweeping = asyncio.create_task(sweep_followers(self._bench.lane()))
        waits = asyncio.create_task(self._waits.wait())
        await asyncio.wait({self.sweeping, waits}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        rows = await super().fetch(sql, *arguments)
        self._resolved.set()
        return rows

    async def sleep(self, seconds: float) -> None:
        """In the place of the sweep's: over when the followers have ended, as in good time."""
        assert seconds == RESOLVE_SECONDS
        self._waits.set()
        await self._resolved.wait()


async def test_a_sweep_that_meets_the_end_of_a_ghost_takes_nothing_from_its_followers(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ghost's own result is a cancelled one: who has read the answer is not woken for it."""
    from tests.integration.db_fixtures import result

    leader, follower = await come(bench, 2, streamed=True, channel=new_id())
    run = await bench.run()
    claims = await run.claim(1)
    await end_requests(bench.database, [leader], CANCELLED)
    lane = LookedAt(bench)
    monkeypatch.setattr(follow, "asyncio", SimpleNamespace(sleep=lane.sleep))
    await run.finisher.finish(lane, [result(c) for c in claims], False)
    await lane.close()
    assert lane.sweeping is not None
    assert (await lane.sweeping).lost == []
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {leader: Outcome.CANCELLED, follower: Outcome.COMPLETED}


async def test_whatever_comes_ends_and_is_cancelled_at_once_each_has_one_result(
    bench: "Bench",
) -> None:
    """Groups that hold the same few twins in any order, two runs, a canceller and the sweep."""
    from tests.integration.db_fixtures import result, submission

    chance = random.Random(4)
    over = asyncio.Event()
    stored: list[UUID] = []

    async def comes() -> None:
        group = GroupCommit(bench.database, submit, limit=64, lanes=2)
        group.start()
        for _ in range(12):
            items = [
                submission(fingerprint=UUID(int=chance.randrange(1, 12)), shareable=True)
                for _ in range(64)
            ]
            await asyncio.gather(*(group.put(item) for item in items))
            stored.extend(item.id for item in items)
        await group.close()

    async def serves(run: "TestRun") -> None:
        group = GroupCommit(bench.database, run.finisher.finish, limit=64, lanes=2)
        group.start()
        while not over.is_set():
            claims = await run.claim(8)
            good = [chance.random() < 0.8 for _ in claims]
            await asyncio.gather(
                *(
                    group.put(result(c, outcome=Outcome.COMPLETED if ok else Outcome.FAILED))
                    for c, ok in zip(claims, good, strict=True)
                )
            )
        await group.close()

    async def cancels() -> None:
        lane = bench.lane()
        while not over.is_set():
            some = chance.sample(stored, min(len(stored), 8))
            with suppress(DatabaseAway):
                await end_requests(lane, some, CANCELLED)

    async def sweeps() -> None:
        lane = bench.lane()
        while not over.is_set():
            with suppress(DatabaseAway):
                await sweep_followers(lane)

    runs = [await bench.run() for _ in range(2)]
    others = [asyncio.create_task(each) for each in (*map(serves, runs), cancels(), sweeps())]
    await asyncio.gather(comes(), comes())

    async def empty() -> bool:
        return bool(await bench.value("select count(*) from queue") == 0)

    await eventually(empty)
    over.set()
    await asyncio.gather(*others)
    assert len(stored) == 2 * 12 * 64
    assert [row["id"] for row in await bench.sql(STORED)] == sorted(stored)
