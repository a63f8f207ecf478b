"""The totals equal the sum of the deltas, whoever finishes and whoever folds at the same time."""

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

from carpool.states import Outcome
from db.batch_sweep import FOLD
from db.end import CANCELLED, EXPIRED, end_requests

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 1500
SUMS = """
select coalesce(sum(completed), 0)::int as completed, coalesce(sum(failed), 0)::int as failed,
    coalesce(sum(cancelled), 0)::int as cancelled, coalesce(sum(expired), 0)::int as expired,
    coalesce(sum(prompt_tokens), 0)::int as prompt,
    coalesce(sum(completion_tokens), 0)::int as completion
from """


async def test_totals_equal_what_was_finished_under_concurrent_finishes_and_folds(
    bench: "Bench",
) -> None:
    from tests.integration.db_fixtures import persist, result

    ids = [i for team in (1, 2, 3) for i in await bench.fill(ROWS // 3, team_id=team)]
    runs = [await bench.run() for _ in range(3)]
    shuffled = random.Random(7).sample(ids, ROWS)
    ended, finished = shuffled[:200], asyncio.Event()

    async def work(run: "TestRun", team: int) -> None:
        while claims := await run.claim(32, team_id=team):
            outcomes = [Outcome.FAILED if c.id.int % 5 == 0 else Outcome.COMPLETED for c in claims]
            results = [
                result(c, outcome=outcome) for c, outcome in zip(claims, outcomes, strict=True)
            ]
            await persist(partial(run.finisher.finish, run.lane, results, False))

    async def end() -> None:
        lane = bench.lane()
        for start in range(0, len(ended), 20):
            ending = CANCELLED if start % 40 else EXPIRED
            await persist(partial(end_requests, lane, ended[start : start + 20], ending))

    async def fold() -> None:
        lane = bench.lane()
        while not finished.is_set():
            await lane.fetch(FOLD, 7)

    folders = [asyncio.create_task(fold()) for _ in range(2)]
    await asyncio.gather(*(work(r, t) for r, t in zip(runs, (1, 2, 3), strict=True)), end())
    finished.set()
    await asyncio.gather(*folders)
    while await bench.value("select count(*) from deltas"):
        await bench.sql(FOLD, 1000)
    stored = await bench.sql(
        """
        select count(*) filter (where outcome = 0)::int as completed,
            count(*) filter (where outcome = 1)::int as failed,
            count(*) filter (where outcome = 2)::int as cancelled,
            count(*) filter (where outcome = 3)::int as expired,
            sum(prompt_tokens)::int as prompt, sum(completion_tokens)::int as completion
        from results
        """
    )
    totals = await bench.sql(SUMS + "totals")
    assert dict(totals[0]) == dict(stored[0])
    assert sum(dict(totals[0]).values()) > ROWS
    assert await bench.value("select count(*) from results") == ROWS


async def test_a_fold_that_is_rolled_back_loses_no_delta(bench: "Bench") -> None:
    await bench.fill(10)
    run = await bench.run()
    await run.finish(await run.claim(10))
    folding = await bench.open_lane()
    await folding.fetch(FOLD, 100)
    await bench.sql(FOLD, 100)  # finds the deltas held, and takes none of them
    await folding.rollback()
    assert await bench.value("select sum(completed) from deltas") == 10
    await bench.sql(FOLD, 100)
    assert await bench.value("select sum(completed) from totals") == 10


async def test_deltas_of_one_group_are_one_row_for_each_team_and_model(bench: "Bench") -> None:
    await bench.route("other")
    for team in (1, 2):
        await bench.fill(5, team_id=team)
    run = await bench.run()
    claims = [*(await run.claim(5)), *(await run.claim(5, team_id=2))]
    await run.finish(claims)
    deltas = await bench.sql("select team_id, completed, completion_tokens from deltas order by 1")
    assert [tuple(d) for d in deltas] == [(1, 5, 10), (2, 5, 10)]


DAYS = """
select day - (now() at time zone 'utc')::date as day, completed::int, failed::int
from totals order by day
"""
STEPS = """
select (at at time zone 'utc')::date - (now() at time zone 'utc')::date as day, completed::int
from activity order by at
"""


async def test_what_ended_before_midnight_is_of_that_day_whenever_it_is_folded(
    bench: "Bench",
) -> None:
    """A delta has the day of its results; of yesterday's the activity is of its last seconds."""
    run = await bench.run()
    for number in (3, 4):
        await bench.fill(number)
        await run.finish(await run.claim(number))
        if number == 3:
            await bench.sql("update deltas set day = day - 1")
    await bench.sql(FOLD, 100)
    assert [tuple(row) for row in await bench.sql(DAYS)] == [(-1, 3, 0), (0, 4, 0)]
    assert [tuple(row) for row in await bench.sql(STEPS)] == [(-1, 3), (0, 4)]


async def test_a_clock_that_stands_before_the_day_of_a_delta_keeps_its_days_apart(
    bench: "Bench",
) -> None:
    """Just after midnight it was set back, or the server that took over is a little behind."""
    run = await bench.run()
    for number in (3, 4):
        await bench.fill(number)
        await run.finish(await run.claim(number))
        if number == 3:
            await bench.sql("update deltas set day = day + 1")
    await bench.sql(FOLD, 100)
    assert [tuple(row) for row in await bench.sql(DAYS)] == [(0, 4, 0), (1, 3, 0)]
    assert [tuple(row) for row in await bench.sql(STEPS)] == [(0, 4), (1, 3)]


async def test_a_deltas_day_is_that_of_its_results(bench: "Bench") -> None:
    """Whatever the time zone of the session that stores them."""
    run = await bench.run()
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        await bench.fill(1)
        claims = await run.claim(1)
        await run.lane.fetch(f"set time zone '{zone}'")
        await run.finish(claims)
    days = "select distinct (completed_at at time zone 'utc')::date from results"
    assert await bench.sql("select distinct day from deltas") == await bench.sql(days)
