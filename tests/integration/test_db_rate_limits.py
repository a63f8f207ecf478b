"""The workers of a backend never take more of a model together than its provider lets them all."""

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from db.database import Lane
from db.rate_limits import (
    Calls,
    Grant,
    Level,
    Observation,
    give_back,
    limited,
    observe,
    pause,
    reserve,
)

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

BACKEND = "cloud"
LARGE, SMALL = "gpt-6-astra", "gpt-6-luna"


@pytest_asyncio.fixture(autouse=True)
async def _still(bench: "Bench") -> None:
    """Nothing refills, and no pause ends, until the test turns the clock."""
    await bench.stop_clock()


def _requests(limit: float, left: float) -> Observation:
    return Observation(requests=Level(limit, left))


def _tokens(limit: float, left: float) -> Observation:
    return Observation(tokens=Level(limit, left))


async def _grant(lane: Lane, wanted: int, tokens_each: float = 0.0) -> Grant:
    return (await reserve(lane, BACKEND, {LARGE: Calls(wanted, tokens_each)}))[LARGE]


async def _reserve(bench: "Bench", wanted: int, tokens_each: float = 0.0) -> int:
    return (await _grant(bench.lane(), wanted, tokens_each)).number


async def test_each_model_has_a_budget_of_its_own(bench: "Bench") -> None:
    """One that is paused, one that is empty and one of which nothing is known, asked at once."""
    await observe(bench.lane(), BACKEND, LARGE, _requests(60, 5))
    await observe(bench.lane(), BACKEND, SMALL, _requests(60, 0))
    await pause(bench.lane(), BACKEND, "paused", 60)
    models = (LARGE, SMALL, "paused", "unknown")
    grants = await reserve(bench.lane(), BACKEND, dict.fromkeys(models, Calls(7, 0.0)))
    assert {name: grant.number for name, grant in grants.items()} == {
        LARGE: 5,
        SMALL: 0,
        "paused": 0,
        "unknown": 7,
    }
    assert grants[SMALL].wait_seconds == 1
    assert grants["paused"].wait_seconds == 60
    await give_back(bench.lane(), BACKEND, LARGE, Calls(3, 0.0))
    assert await _reserve(bench, 7) == 3
    assert set(await limited(bench.lane(), BACKEND)) == {LARGE, SMALL, "paused"}
    assert await limited(bench.lane(), "another") == []


async def test_who_asks_for_many_models_locks_them_in_one_order(bench: "Bench") -> None:
    """Whatever the order in which a plan meets them, so that no two block each other."""
    for model in (SMALL, LARGE):
        await observe(bench.lane(), BACKEND, model, _requests(600, 600))
    first, second = await bench.open_lane(), await bench.open_lane()
    for way, on in (("seqscan", "on"), ("indexscan", "off"), ("bitmapscan", "off")):
        await second.fetch(f"set local enable_{way} = {on}")
    both = dict.fromkeys((SMALL, LARGE), Calls(1, 0.0))
    await reserve(first, BACKEND, {LARGE: Calls(1, 0.0)})
    waits = asyncio.create_task(reserve(second, BACKEND, both))
    await bench.until_blocked(second.pid)
    assert (await reserve(first, BACKEND, {SMALL: Calls(1, 0.0)}))[SMALL].number == 1
    await first.commit()
    assert [grant.number for grant in (await waits).values()] == [1, 1]
    await second.commit()


async def test_where_no_limit_is_known_all_are_granted(bench: "Bench") -> None:
    assert await _grant(bench.lane(), 1000, 50.0) == (1000, 0, False)
    assert await bench.value("select count(*) from model_limits") == 0


async def test_what_is_granted_is_taken_off(bench: "Bench") -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(6, 3))
    grant = await _grant(bench.lane(), 2)
    assert grant == (2, 0, True)
    assert await _reserve(bench, 2) == 1
    grant = await _grant(bench.lane(), 2)
    assert grant == (0, 10, True)


async def test_two_workers_never_get_more_than_the_budget_together(bench: "Bench") -> None:
    """Each asks again and again; what they get in sum is what was left and what has refilled."""
    await observe(bench.lane(), BACKEND, LARGE, _requests(600, 100))

    async def worker() -> int:
        lane = bench.lane()
        return sum([(await _grant(lane, 3)).number for _ in range(150)])

    async def time() -> int:
        for _ in range(20):
            await bench.turn_clock(0.5)
        return 0

    granted = sum(await asyncio.gather(*(worker() for _ in range(4)), time()))
    assert granted + await _reserve(bench, 600) == 100 + 20 * 5


async def test_who_waits_for_the_row_reckons_with_what_the_other_took(bench: "Bench") -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(12, 6))
    first, second = await bench.open_lane(), await bench.open_lane()
    assert (await _grant(first, 4)).number == 4
    waits = asyncio.create_task(_grant(second, 4))
    await bench.until_blocked(second.pid)
    await first.commit()
    assert (await waits).number == 2
    await second.commit()


async def test_a_pause_holds_for_all_and_is_only_made_longer(bench: "Bench") -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(100, 100))
    await pause(bench.lane(), BACKEND, LARGE, 60)
    await pause(bench.lane(), BACKEND, LARGE, 5)
    for _ in range(2):
        grant = await _grant(bench.lane(), 10)
        assert grant == (0, 60, True)
    await bench.turn_clock(30)
    assert await _reserve(bench, 10) == 0
    await bench.turn_clock(30)
    assert await _reserve(bench, 10) == 10


async def test_a_pause_of_a_provider_that_names_no_limits_holds_too(bench: "Bench") -> None:
    await pause(bench.lane(), BACKEND, LARGE, 60)
    assert await _reserve(bench, 10) == 0
    assert await reserve(bench.lane(), "another", {LARGE: Calls(10, 0.0)}) == {
        LARGE: (10, 0, False)
    }
    await bench.turn_clock(60)
    assert await _reserve(bench, 10) == 10


async def test_a_bucket_refills_by_the_minute_up_to_a_second_less_than_its_limit(
    bench: "Bench",
) -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(60_000, 0))
    await bench.turn_clock(6)
    assert await _reserve(bench, 10**6) == 6000
    await bench.turn_clock(3600)
    assert await _reserve(bench, 10**6) == 59_000


async def test_what_refills_in_small_steps_is_not_lost(bench: "Bench") -> None:
    """Half a call at a time: it is a whole one the second time."""
    await observe(bench.lane(), BACKEND, LARGE, _requests(6, 0))
    granted = []
    for _ in range(4):
        await bench.turn_clock(5)
        granted.append(await _reserve(bench, 1))
        await observe(bench.lane(), BACKEND, LARGE, _requests(6, 6))
    assert granted == [0, 1, 0, 1]


async def test_tokens_bound_the_calls_too(bench: "Bench") -> None:
    await observe(
        bench.lane(), BACKEND, LARGE, Observation(requests=Level(100, 90), tokens=Level(9000, 6000))
    )
    assert await _reserve(bench, 50, 1000.0) == 6
    await bench.turn_clock(20)
    assert await _reserve(bench, 50, 1000.0) == 3


async def test_a_call_larger_than_the_whole_bucket_goes_when_it_is_full(bench: "Bench") -> None:
    await observe(bench.lane(), BACKEND, LARGE, _tokens(1000, 900))
    assert await _reserve(bench, 5, 5000.0) == 0
    await bench.turn_clock(60)
    assert await _reserve(bench, 5, 5000.0) == 1
    assert await _reserve(bench, 5, 5000.0) == 0


@pytest.mark.parametrize(("limit", "granted"), [(1, 1), (3, 2), (60, 59)])
async def test_a_full_bucket_of_any_size_lets_calls_go(
    bench: "Bench", limit: float, granted: int
) -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(limit, limit))
    assert await _reserve(bench, 100) == granted


async def test_headers_that_come_out_of_order_raise_no_level(bench: "Bench") -> None:
    """The older answer, with more left, comes last: it knows nothing of the calls since."""
    await observe(bench.lane(), BACKEND, LARGE, _requests(1, 1))
    await observe(bench.lane(), BACKEND, LARGE, _requests(1000, 40))
    await observe(bench.lane(), BACKEND, LARGE, _requests(1000, 900))
    assert await _reserve(bench, 1000) == 1
    await bench.turn_clock(60)
    await observe(bench.lane(), BACKEND, LARGE, _requests(1000, 40))
    await observe(bench.lane(), BACKEND, LARGE, _requests(1000, 900))
    assert await _reserve(bench, 1000) == 40


async def test_what_others_reserved_stays_reserved_when_headers_come(bench: "Bench") -> None:
    """The provider has not seen those calls yet, so its level is higher than what is left."""
    await observe(bench.lane(), BACKEND, LARGE, _requests(200, 100))
    assert await _reserve(bench, 90) == 90
    await observe(bench.lane(), BACKEND, LARGE, _requests(200, 99))
    assert await _reserve(bench, 90) == 10


async def test_the_first_level_is_without_the_calls_that_are_under_way(bench: "Bench") -> None:
    await observe(bench.lane(), BACKEND, LARGE, _requests(100, 99), in_flight=60, tokens_each=10)
    await observe(bench.lane(), BACKEND, LARGE, _tokens(1000, 990), in_flight=60, tokens_each=10)
    assert await _reserve(bench, 100) == 39
    assert await bench.value("select tokens_left from model_limits") == 390


async def test_what_is_given_back_may_be_had_again_up_to_the_limit(bench: "Bench") -> None:
    await observe(
        bench.lane(), BACKEND, LARGE, Observation(requests=Level(20, 10), tokens=Level(2000, 1000))
    )
    assert await _reserve(bench, 10, 100.0) == 10
    await give_back(bench.lane(), BACKEND, LARGE, Calls(4, 100.0))
    assert await _reserve(bench, 10, 100.0) == 4
    await give_back(bench.lane(), BACKEND, LARGE, Calls(50, 100.0))
    row = (await bench.sql("select requests_left, tokens_left from model_limits"))[0]
    assert tuple(row) == (20, 2000)


@pytest.mark.parametrize("again", [_requests(20, 20), _tokens(500, 500)])
async def test_a_limit_that_changes_is_kept_to(bench: "Bench", again: Observation) -> None:
    await observe(
        bench.lane(),
        BACKEND,
        LARGE,
        Observation(requests=Level(100, 100), tokens=Level(9000, 9000)),
    )
    await observe(bench.lane(), BACKEND, LARGE, again)
    await bench.turn_clock(60)
    assert await _reserve(bench, 1000, 25.0) == 19
    limits = (await bench.sql("select requests_limit, tokens_limit from model_limits"))[0]
    assert tuple(limits) == ((20, 9000) if again.requests else (100, 500))
