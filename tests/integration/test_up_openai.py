"""`carpool up` before a provider with limits: what it refuses for now is answered all the same."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from openai import RateLimitError

from carpool.ids import parse_public_id
from tests.clients import CHAT, Requests
from tests.double.launch import Double, serving
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory

MODEL = "cloudy"
PATH = "/v1/chat/completions"
MOST_ATTEMPTS = 2
WORKERS = 2
LIMIT = 240
"""A minute; four a second."""
SLACK = 16
"""How much more the provider bears than it has said: on a loaded machine some calls are counted
seconds after they were let go, and a bucket that is full until then does not refill meanwhile."""
BEYOND = 36
"""More than the slack: two workers that knew nothing of each other would be refused some."""
PATIENCE_SECONDS = 120.0
"""To connect, too, for which the SDK's five seconds are short where hundreds do so at once."""
SERVING = f"select count(*) = {WORKERS} from runs where ended_at is null"
CONFIG = """
[backends.cloud]
kind = "openai"
base_url = "{url}"
api_key = "sk-any"
models = ["gpt-6-luna"]
prompt_cache_key = true

[models.{model}]
backends = ["cloud"]
upstream = "gpt-6-luna"
"""
AGE = "update attempts set ended_at = ended_at - interval '2 hours' where id = $1"
KEPT = "select outcome, error from attempts where id = $1 order by epoch"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def stack(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with _stack(served, tmp_path_factory) as started:
        yield started


@contextmanager
def _stack(url: str, paths: pytest.TempPathFactory) -> Iterator[Stack]:
    config = paths.mktemp("config") / "carpool.toml"
    config.write_text(CONFIG.format(url=url, model=MODEL))
    env = {
        "CARPOOL_CONFIG": str(config),
        "CARPOOL_MAX_ATTEMPTS": str(MOST_ATTEMPTS),
        "CARPOOL_POLL_SECONDS": "0.1",
    }
    with stack_in_temporary_directory(env, options=("--workers", str(WORKERS))) as started:
        yield started


@pytest_asyncio.fixture
async def double(served: str, stack: Stack) -> AsyncIterator[Double]:
    """A fresh one, whose pauses the stack has forgotten."""
    async with Double(url=served) as attached:
        await stack.fetch("update model_limits set paused_until = null")
        yield attached


async def _chat(stack: Stack, **changes: Any) -> Any:
    async with stack.async_client() as client:
        return await client.chat.completions.create(**_body(**changes))


def _body(**changes: Any) -> Any:
    return CHAT | {"model": MODEL} | changes


@asynccontextmanager
async def _requests(stack: Stack) -> AsyncIterator[Requests]:
    async with stack.http() as http:
        yield Requests(http)


async def _outcomes(stack: Stack, identifier: UUID) -> list[str]:
    return [row["outcome"] for row in await stack.fetch(KEPT, identifier)]


async def test_rate_limits_use_up_no_attempt(stack: Stack, double: Double) -> None:
    """It is refused more often than a request may fail, and answered."""
    refusals = MOST_ATTEMPTS + 1
    await double.fault(PATH, status=429, times=refusals, headers={"retry-after-ms": "10"})
    answer = await _chat(stack)
    assert answer.choices[0].message.content == double.text(_body())
    rows = await stack.fetch("select outcome from attempts order by id desc, epoch")
    assert [row["outcome"] for row in rows[:refusals]] == ["limited"] * refusals
    assert len((await double.seen()).of(PATH)) == refusals + 1


async def test_a_spent_quota_fails_as_any_other_failure(stack: Stack, double: Double) -> None:
    error = {"message": "no money", "type": "insufficient_quota", "param": None}
    body = {"error": {**error, "code": "insufficient_quota"}}
    await double.fault(PATH, status=429, times=None, body=body)
    with pytest.raises(RateLimitError) as caught:
        await _chat(stack)
    assert caught.value.code == "insufficient_quota"
    assert len((await double.seen()).of(PATH)) == MOST_ATTEMPTS


async def test_after_an_hour_of_rate_limits_the_client_is_told(
    stack: Stack, double: Double
) -> None:
    await double.fault(PATH, status=429, times=None, headers={"retry-after-ms": "10"})
    async with _requests(stack) as requests:
        left = await requests.leave(model=MODEL)
        identifier = parse_public_id("req_", left["id"])
        await eventually(lambda: _outcomes(stack, identifier))
        await stack.fetch(AGE, identifier)
        failed = await requests.until(left["id"], "failed")
    assert failed["error"]["code"] == "rate_limit_exceeded"


async def test_with_a_deadline_it_goes_on_until_then(stack: Stack, double: Double) -> None:
    storm = await double.fault(PATH, status=429, times=None, headers={"retry-after-ms": "10"})
    async with _requests(stack) as requests:
        left = await requests.leave(model=MODEL)
        identifier = parse_public_id("req_", left["id"])
        await stack.fetch(
            "update queue set deadline = now() + interval '1 hour' where id = $1", identifier
        )
        first = await eventually(lambda: _outcomes(stack, identifier))
        await stack.fetch(AGE, identifier)

        async def refused_again() -> bool:
            return len(await _outcomes(stack, identifier)) > len(first) + 1

        await eventually(refused_again)
        await double.clear(storm)
        answered: Json = await requests.until(left["id"], "completed")
    assert answered["response"]["choices"]


async def test_two_workers_keep_to_one_limit(
    served: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """More than the limit comes at once, half of it streams: nothing is refused, and the rest goes
    as the bucket fills."""
    with _stack(served, tmp_path_factory) as stack:
        async with (
            Double(url=served) as double,
            stack.async_client(timeout=PATIENCE_SECONDS) as client,
        ):
            await eventually(lambda: stack.value(SERVING))
            await double.configure(requests_per_minute=LIMIT)
            await double.auto()

            async def ask(number: int) -> None:
                streamed = number % 2 == 1
                answer: Any = await client.chat.completions.create(**_body(stream=streamed))
                if streamed:
                    assert [chunk async for chunk in answer]

            await ask(0)
            await eventually(lambda: stack.fetch("select from model_limits"))
            await double.configure(requests_per_minute=LIMIT + SLACK)
            await asyncio.gather(*(ask(number) for number in range(LIMIT + BEYOND)))
            calls = (await double.seen()).of(PATH)
        assert [call.status for call in calls] == [200] * (1 + LIMIT + BEYOND)
        shares = await stack.fetch("select count(*) from results group by worker")
        assert len(shares) == WORKERS


async def test_long_prefixes_that_are_shared_share_a_cache_key(
    stack: Stack, double: Double
) -> None:
    long = "The yard is full of cars. " * 200
    for question in ("Who leaves first?", "Who leaves last?"):
        messages = [{"role": "system", "content": long}, {"role": "user", "content": question}]
        await _chat(stack, messages=messages)
    await _chat(stack, prompt_cache_key="mine")
    keys = [call.json()["prompt_cache_key"] for call in (await double.seen()).of(PATH)]
    assert keys[0] == keys[1] != keys[2] == "mine"
