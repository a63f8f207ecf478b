"""Workers of one backend keep to the provider's limits together, and answer without Postgres."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from carpool.errors import PassingError
from carpool.ids import new_id
from carpool.settings import OpenAIBatchSettings, OpenAISettings
from carpool.states import Endpoint
from db.database import Database
from db.rate_limits import Calls, reserve
from tests.conformance.provider import Provider as Limitless
from tests.double.launch import Double
from tests.stack import eventually
from workers.backends import openai, openai_budget
from workers.backends.openai import OpenAIBackend
from workers.backends.openai_budget import SharedBudget
from workers.backends.protocol import Call
from workers.provider_batches.provider import Provider
from workers.provider_batches.responses import Responses

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

BACKEND = "cloud"
MODEL, OTHER = "gpt-6-luna", "gpt-6-astra"
PATH = "/v1/chat/completions"
AWAY = "postgresql://nobody@127.0.0.1:1/none"
PAUSED = "select upstream from model_limits where paused_until > now() + interval '20s'"
LEFT = "select requests_left from model_limits where requests_left is not null"
TICK_SECONDS = 1e-6


class Clock:
    """The workers' and Postgres's: they stand still until they are turned, as the double's does."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._now = 1000.0

    def monotonic(self) -> float:
        """What is later is a little later."""
        self._now += TICK_SECONDS
        return self._now

    async def turn(self, seconds: float) -> None:
        self._now += seconds
        await self._bench.turn_clock(seconds)


@pytest_asyncio.fixture
async def clock(bench: "Bench", monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Nothing refills, and no pause ends, however long the test takes."""
    await bench.stop_clock()
    made = Clock(bench)
    for module in (openai, openai_budget):
        monkeypatch.setattr(module, "time", made)
    return made


@asynccontextmanager
async def _worker(database: Database, url: str, **settings: Any) -> AsyncIterator[OpenAIBackend]:
    """A started backend, as each worker process has one."""
    given = {"kind": "openai", "base_url": url, "api_key": "sk-any", **settings}
    backend = OpenAIBackend(BACKEND, OpenAISettings.model_validate(given), database)
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()


def _call(*, stream: bool = False, upstream: str = MODEL) -> Call:
    body = {"messages": [{"role": "user", "content": "Who leaves the yard?"}]}
    return Call(
        id=new_id(),
        endpoint=Endpoint.CHAT,
        model="gpt",
        upstream=upstream,
        body=msgspec.json.encode(body),
        stream=stream,
        team_id=1,
        prefix_key=0,
    )


def _background(model: str) -> bytes:
    return msgspec.json.encode({"model": model, "input": "Who leaves?", "background": True})


async def _admit(worker: OpenAIBackend, wanted: int) -> int:
    return (await worker.admit({MODEL: wanted}))[MODEL]


async def _granted(worker: OpenAIBackend, upstream: str) -> int:
    """What is granted of one model, of all that a worker could want."""
    return (await worker.admit({upstream: 256}))[upstream]


async def _answers(worker: OpenAIBackend, number: int, **call: Any) -> None:
    """Answer so many calls at once; raises what the first that fails does."""
    answers = await asyncio.gather(
        *(worker.answer(_call(**call), lambda _: None) for _ in range(number))
    )
    assert {answer.status for answer in answers} == {200}


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("stream", [False, True])
async def test_two_workers_take_no_more_than_the_limit_together(
    bench: "Bench", double: Double, stream: bool
) -> None:
    """Both go on until each was refused; the provider has never had to say 429."""
    await double.configure(requests_per_minute=40)
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(first, 1, stream=stream)
        await eventually(lambda: bench.sql(LEFT))

        async def work(worker: OpenAIBackend, granted: int) -> int:
            started = 0
            while granted:
                await _answers(worker, granted, stream=stream)
                started += granted
                granted = await _admit(worker, 7)
            return started

        begun = [(worker, await _admit(worker, 7)) for worker in (first, second)]
        started = await asyncio.gather(*(work(worker, granted) for worker, granted in begun))
    assert min(started) > 0
    assert sum(started) == 38
    assert {call.status for call in (await double.seen()).calls} == {200}


@pytest.mark.usefixtures("clock")
async def test_what_one_worker_does_not_use_another_may(bench: "Bench", double: Double) -> None:
    await double.configure(requests_per_minute=20)
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(first, 1)
        await eventually(lambda: bench.sql(LEFT))
        assert await _admit(first, 256) == 18
        await first.unused({MODEL: 5})
        await first.unused({MODEL: 5})
        assert await _admit(second, 256) == 5


async def test_a_429_of_one_worker_holds_the_other_at_once(bench: "Bench", double: Double) -> None:
    """Also one that has met no limit itself."""
    await double.fault(PATH, status=429, headers={"retry-after": "300"})
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        with pytest.raises(PassingError) as caught:
            await _answers(first, 1)
        assert (caught.value.counts, caught.value.status) == (False, 429)
        assert await _admit(first, 10) == 0
        await eventually(lambda: bench.sql(PAUSED))
        assert await _admit(second, 10) == 0


async def test_a_model_that_is_used_up_holds_no_other(
    bench: "Bench", double: Double, clock: Clock
) -> None:
    """At neither of two workers, and it is asked again within a second, for it may refill."""
    await double.configure(requests_per_minute_of={OTHER: 20})
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(first, 1, upstream=OTHER)
        await eventually(lambda: bench.sql(LEFT))
        assert await first.admit({OTHER: 256, MODEL: 256}) == {OTHER: 18, MODEL: 256}
        for _ in range(2):
            assert await second.admit({OTHER: 5, MODEL: 5}) == {OTHER: 0, MODEL: 5}
        assert second.shut().keys() == {OTHER}
        assert second.shut()[OTHER] <= 1
        await first.unused({OTHER: 5, MODEL: 256})
        await clock.turn(1)
        assert await _granted(second, OTHER) == 6


async def test_a_429_that_names_no_limit_pauses_its_model_alone(
    bench: "Bench", double: Double
) -> None:
    await double.fault(PATH, holding=OTHER, status=429, headers={"retry-after": "300"})
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(second, 1)
        with pytest.raises(PassingError):
            await _answers(first, 1, upstream=OTHER)
        await eventually(lambda: bench.sql(PAUSED))
        for worker in (first, second):
            assert await worker.admit({OTHER: 3, MODEL: 3}) == {OTHER: 0, MODEL: 3}
        await _answers(first, 1)


async def test_background_responses_keep_to_the_limit_of_their_model(
    bench: "Bench", double: Double
) -> None:
    """One is created, and the next refused; another model's are created meanwhile."""
    await double.configure(requests_per_minute_of={OTHER: 1})
    settings = {"kind": "openai_batch", "base_url": double.url, "api_key": "sk-any"}
    provider = Provider(BACKEND, OpenAIBatchSettings.model_validate(settings))
    budget = SharedBudget(BACKEND, bench.database)
    responses = Responses(provider, budget)
    budget.start()
    try:
        assert await responses.admit(OTHER, 1) == 1
        await responses.create(OTHER, _background(OTHER))
        with pytest.raises(PassingError):
            await responses.create(OTHER, _background(OTHER))
        assert await responses.admit(OTHER, 3) == 0
        assert await responses.admit(MODEL, 3) == 3
        await responses.create(MODEL, _background(MODEL))
        await eventually(lambda: bench.sql(PAUSED))
        assert await bench.value(f"select upstream from ({PAUSED}) paused") == OTHER
    finally:
        await budget.close()
        await provider.close()


async def test_a_spent_quota_and_a_request_too_large_hold_nobody(
    bench: "Bench", double: Double
) -> None:
    quota = {"message": "You exceeded your quota", "type": "insufficient_quota", "param": None}
    await double.fault(PATH, status=429, body={"error": {**quota, "code": "insufficient_quota"}})
    async with _worker(bench.database, double.url) as worker:
        with pytest.raises(PassingError) as caught:
            await _answers(worker, 1)
        assert caught.value.counts
        await double.configure(tokens_per_minute=5)
        with pytest.raises(PassingError, match="429") as caught:
            await _answers(worker, 1)
        assert caught.value.counts
        assert b"Request too large" in caught.value.body
        assert await _admit(worker, 10) > 0


async def test_a_storm_halves_what_is_in_flight_of_its_model_and_successes_bring_it_back(
    bench: "Bench", double: Double, clock: Clock
) -> None:
    """It takes no places from other models."""
    await double.fault(PATH, holding=OTHER, status=429, times=8)
    async with _worker(bench.database, double.url, concurrency=8) as worker:
        calls = [worker.answer(_call(upstream=OTHER), lambda _: None) for _ in range(8)]
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in refused} == {PassingError}
        assert worker.capacity == 8
        assert await worker.admit({OTHER: 8, MODEL: 8}) == {OTHER: 0, MODEL: 8}

        async def granted_later() -> int:
            await clock.turn(1)
            return await _granted(worker, OTHER)

        assert await eventually(granted_later) == 4
        for _ in range(12):
            await _answers(worker, 8, upstream=OTHER)
        assert await _granted(worker, OTHER) == 8


async def test_a_model_whose_places_are_taken_is_shut_until_one_of_its_calls_ends(
    bench: "Bench", double: Double
) -> None:
    await double.fault(PATH, hang=True)
    async with _worker(bench.database, double.url, concurrency=1) as worker:
        asking = asyncio.create_task(_answers(worker, 1))
        await double.until_held()
        assert worker.shut().keys() == {MODEL}
        assert await worker.admit({OTHER: 1, MODEL: 1}) == {OTHER: 1, MODEL: 0}
        await double.release()
        await asking
        assert not worker.shut()
        assert await _admit(worker, 1) == 1


async def test_an_overload_halves_what_is_in_flight_of_all_models(
    bench: "Bench", double: Double
) -> None:
    await double.fault(PATH, status=503)
    async with _worker(bench.database, double.url, concurrency=8) as worker:
        with pytest.raises(PassingError):
            await _answers(worker, 1)
        assert worker.capacity == 4
        for _ in range(12):
            await _answers(worker, 8)
        assert worker.capacity == 8


async def test_without_postgres_calls_are_answered_and_none_is_let_start(double: Double) -> None:
    await double.configure(requests_per_minute=100)
    database = Database(AWAY)
    async with _worker(database, double.url) as worker:
        await _answers(worker, 5)
        assert await _admit(worker, 10) == 0
        await worker.unused({MODEL: 10})
        await double.fault(PATH, status=429)
        with pytest.raises(PassingError):
            await _answers(worker, 1)
        assert await _admit(worker, 10) == 0
    await database.close()


@pytest.mark.usefixtures("clock")
async def test_a_provider_that_names_no_limits_costs_one_query(bench: "Bench") -> None:
    """The first look aside, nothing is asked or told, and all is granted, whatever the models."""
    async with Limitless() as provider, _worker(bench.database, provider.url) as worker:
        worker_asks = [await _admit(worker, 3)]
        statements = await _statements(bench)
        assert statements is not None
        for _ in range(50):
            worker_asks.append(await _admit(worker, 3))
            await worker.unused({MODEL: 1})
            assert await worker.admit({OTHER: 2, MODEL: 3}) == {OTHER: 2, MODEL: 3}
        assert worker_asks == [3] * 51
        assert await _statements(bench) == statements
    assert await reserve(bench.lane(), BACKEND, {MODEL: Calls(9, 0.0)}) == {MODEL: (9, 0, False)}
    assert await bench.value("select count(*) from model_limits") == 0


async def _statements(bench: "Bench") -> Any:
    """When the budget was last asked."""
    return await bench.value(
        "select max(query_start) from pg_stat_activity where datname = current_database() "
        "and query like '%from model_limits where%' and pid <> pg_backend_pid()"
    )
