"""A backend that fails is given up; the route's next takes over what waits and what it held."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.clients import CHAT
from tests.double.launch import Double, serving
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory
from workers.breaker import PAUSE_SECONDS

CONFIG = """
[backends.provider]
kind = "openai"
base_url = "{url}"
models = []

[backends.own]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.house]
backends = ["provider", "own"]
upstream = "gpt-6-luna"
"""
SOON = {"CARPOOL_HEALTH_SECONDS": "3"}
"""The patience of a check, too: a loaded machine may keep it waiting for a while."""
LEFT_ALONE = 100
"""Requests while the provider is given up."""
PATH = "/v1/chat/completions"
LIVE = "select accepting from runs where backend = 'provider' and ended_at is null"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def chained(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The provider first, then the own backend."""
    config: Path = tmp_path_factory.mktemp("failover") / "carpool.toml"
    config.write_text(CONFIG.format(url=url))
    with stack_in_temporary_directory(SOON, options=("--config", str(config))) as stack:
        yield stack


@pytest.fixture
async def double(url: str, chained: Stack) -> AsyncIterator[Double]:
    """The provider, well, and first in the route."""
    async with Double(url=url) as attached:
        async with chained.http() as http:
            await eventually(lambda: answers_of(http, "provider"))
        yield attached


@pytest.fixture
async def http(chained: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with chained.http() as client:
        yield client


async def ask(http: httpx.AsyncClient, **fields: object) -> httpx.Response:
    body: Json = CHAT | {"model": "house"} | fields
    return await http.post("/chat/completions", json=body)


async def answers_of(http: httpx.AsyncClient, backend: str) -> bool:
    return bool((await ask(http)).headers.get("x-carpool-backend") == backend)


async def test_what_a_hung_provider_holds_is_answered_by_the_next(
    chained: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """Its health check fails, so nothing more goes there, and what is there is taken back."""
    await double.fault(PATH, hang=True, times=None)
    asking = [asyncio.create_task(ask(http, user=f"h{n}")) for n in range(4)]
    await double.until_held(4)
    await double.fault("/v1/models", method="GET", status=500, times=None)
    answers = await asyncio.gather(*asking)
    assert Counter(a.headers["x-carpool-backend"] for a in answers) == {"own": 4}
    assert {answer.status_code for answer in answers} == {200}
    assert await chained.value(LIVE) is False
    assert (await ask(http)).headers["x-carpool-backend"] == "own"
    losses = await chained.value("select coalesce(sum(lost), 0) from queue")
    assert losses == 0


async def test_a_provider_that_only_fails_is_left_alone_and_probed(
    chained: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """After some failures in a row its breaker opens; a probe that succeeds closes it."""
    await double.fault(PATH, status=500, times=None)
    answers = await asyncio.gather(*(ask(http, user=f"f{n}") for n in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-carpool-backend"] for answer in answers} == {"own"}
    assert await chained.value(LIVE) is False
    began = time.monotonic()
    before = len((await double.seen()).of(PATH))
    for _ in range(LEFT_ALONE):
        assert (await ask(http)).status_code == 200
    probes = len((await double.seen()).of(PATH)) - before
    # One may be on its way at the start; the next ones come no sooner than after a pause each.
    assert probes <= 2 + (time.monotonic() - began) / PAUSE_SECONDS


async def test_a_stream_that_has_begun_is_not_moved(
    http: httpx.AsyncClient, double: Double
) -> None:
    """Its client has read of it; another beginning would be another answer."""
    await double.fault(PATH, hang_after_chunks=2)
    body = CHAT | {"model": "house", "stream": True, "user": "s"}
    async with AsyncExitStack() as opened:

        async def begun() -> httpx.Response | None:
            """The stream, from the provider; the next leg answers where it just seems away."""
            asked = http.stream("POST", "/chat/completions", json=body)
            answer = await opened.enter_async_context(asked)
            return answer if answer.headers["x-carpool-backend"] == "provider" else None

        answer = await eventually(begun)
        lines = answer.aiter_lines()
        await anext(lines)
        await double.until_held()
        await double.fault("/v1/models", method="GET", status=500, times=None)
        await eventually(lambda: answers_of(http, "own"))
        await double.release()
        rest = [line async for line in lines]
    assert rest[-2] == "data: [DONE]"
