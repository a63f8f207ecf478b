"""Workers of one backend keep to the provider's limits together, and answer without Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from carpool.errors import PassingError
from carpool.ids import new_id
from carpool.settings import OpenAISettings
from carpool.states import Endpoint
from db.database import Database
from db.rate_limits import reserve
from tests.conformance.provider import Provider
from tests.double.launch import Double, serving
from tests.stack import eventually
from workers.backends.openai import OpenAIBackend
from workers.backends.protocol import Call

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

BACKEND = "cloud"
PATH = "/v1/chat/completions"
AWAY = "postgresql://nobody@127.0.0.1:1/none"
LEFT = "select requests_left from rate_limits where requests_left is not null"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest_asyncio.fixture
async def double(served: str) -> AsyncIterator[Double]:
    async with Double(url=served) as attached:
        yield attached


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


def _call(*, stream: bool = False) -> Call:
    body = {"messages": [{"role": "user", "content": "Who leaves the yard?"}]}
    return Call(
        id=new_id(),
        endpoint=Endpoint.CHAT,
        model="gpt",
        upstream="gpt-6-luna",
        body=msgspec.json.encode(body),
        stream=stream,
        team_id=1,
        prefix_key=0,
    )


async def _answers(worker: OpenAIBackend, number: int, **call: Any) -> None:
    """Answer so many calls at once; raises what the first that fails does."""
    answers = await asyncio.gather(
        *(worker.answer(_call(**call), lambda _: None) for _ in range(number))
    )
    assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("stream", [False, True])
async def test_two_workers_take_no_more_than_the_limit_together(
    bench: "Bench", double: Double, stream: bool
) -> None:
    """Both go on until each was refused; the provider has never had to say 429."""
    await double.configure(requests_per_minute=40)
    await double.auto()
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(first, 1, stream=stream)
        await eventually(lambda: bench.sql(LEFT))

        async def work(worker: OpenAIBackend) -> int:
            started = 0
            while granted := await worker.admit(7):
                await _answers(worker, granted, stream=stream)
                started += granted
            return started

        started = await asyncio.gather(work(first), work(second))
    assert min(started) > 0
    assert 38 <= sum(started) <= 45
    assert {call.status for call in (await double.seen()).calls} == {200}


async def test_what_one_worker_does_not_use_another_may(bench: "Bench", double: Double) -> None:
    await double.configure(requests_per_minute=20)
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        await _answers(first, 1)
        await eventually(lambda: bench.sql(LEFT))
        assert await first.admit(256) in (18, 19)
        await first.unused(5)
        await first.unused(5)
        assert await second.admit(256) in (5, 6)


async def test_a_429_of_one_worker_holds_the_other_at_once(bench: "Bench", double: Double) -> None:
    """Also one that has met no limit itself."""
    await double.fault(PATH, status=429, headers={"retry-after": "30"})
    async with (
        _worker(bench.database, double.url) as first,
        _worker(bench.database, double.url) as second,
    ):
        with pytest.raises(PassingError) as caught:
            await _answers(first, 1)
        assert (caught.value.counts, caught.value.status) == (False, 429)
        assert await first.admit(10) == 0
        await eventually(
            lambda: bench.sql("select from rate_limits where paused_until > now() + interval '20s'")
        )
        assert await second.admit(10) == 0


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
        assert await worker.admit(10) > 0


async def test_a_storm_halves_what_is_in_flight_and_successes_bring_it_back(
    bench: "Bench", double: Double
) -> None:
    await double.fault(PATH, status=429, times=8)
    async with _worker(bench.database, double.url, concurrency=8) as worker:
        calls = [worker.answer(_call(), lambda _: None) for _ in range(8)]
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in refused} == {PassingError}
        assert worker.capacity == 4
        for _ in range(12):
            await _answers(worker, 8)
        assert worker.capacity == 8


async def test_without_postgres_calls_are_answered_and_none_is_let_start(double: Double) -> None:
    await double.configure(requests_per_minute=100)
    database = Database(AWAY)
    async with _worker(database, double.url) as worker:
        await _answers(worker, 5)
        assert await worker.admit(10) == 0
        await worker.unused(10)
        await double.fault(PATH, status=429)
        with pytest.raises(PassingError):
            await _answers(worker, 1)
        assert await worker.admit(10) == 0
    await database.close()


async def test_a_provider_that_names_no_limits_costs_one_query(bench: "Bench") -> None:
    """The first look aside, nothing is asked, nothing is told, and all is granted."""
    async with Provider() as provider, _worker(bench.database, provider.url) as worker:
        worker_asks = [await worker.admit(3)]
        statements = await _statements(bench)
        assert statements is not None
        for _ in range(50):
            worker_asks.append(await worker.admit(3))
            await worker.unused(1)
        assert worker_asks == [3] * 51
        assert await _statements(bench) == statements
    assert (await reserve(bench.lane(), BACKEND, 9, 0.0)).number == 9
    assert await bench.value("select count(*) from rate_limits") == 0


async def _statements(bench: "Bench") -> Any:
    """When the budget was last asked."""
    return await bench.value(
        "select max(query_start) from pg_stat_activity where datname = current_database() "
        "and query like '%from rate_limits where%' and pid <> pg_backend_pid()"
    )
