"""Of one backend, a model that is used up waits for its bucket alone, while the others all flow."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.clients import CHAT, Requests
from tests.double.launch import Double
from tests.stack import Stack, eventually, stack_in_temporary_directory

LIMITED, FLOWING = "gpt-6-astra", "gpt-6-luna"
PATH = "/v1/chat/completions"
WORKERS = 2
LIMIT = 12
"""A minute; one in five seconds."""
STORM = 2
"""Requests of the limited model that come before any worker knows of its limit; one comes later."""
FLOW = 100
CONCURRENCY = 8
PATIENCE_SECONDS = 120.0
"""To connect, too, for which the SDK's five seconds are short where a hundred do so at once."""
CONFIG = """
[backends.cloud]
kind = "openai"
base_url = "{url}"
api_key = "sk-any"
models = ["gpt-6-astra", "gpt-6-luna"]
concurrency = {concurrency}

[models.limited]
backends = ["cloud"]
upstream = "gpt-6-astra"

[models.flowing]
backends = ["cloud"]
upstream = "gpt-6-luna"
"""
SERVING = f"select count(*) = {WORKERS} from runs where ended_at is null"
REFUSED = "select count(*) from attempts where outcome = 'limited'"
FLOWED = "select count(*) from results where upstream = 'gpt-6-luna' group by worker"


@pytest.fixture
def stack(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("config") / "carpool.toml"
    config.write_text(CONFIG.format(url=served, concurrency=CONCURRENCY))
    env = {"CARPOOL_CONFIG": str(config), "CARPOOL_POLL_SECONDS": "0.1"}
    with stack_in_temporary_directory(env, options=("--workers", str(WORKERS))) as started:
        yield started


async def _use_up(double: Double) -> None:
    """Another client of the account takes all that the limited model's bucket holds."""
    headers = {"authorization": "Bearer sk-any"}
    async with httpx.AsyncClient(base_url=double.url, headers=headers) as other:
        for _ in range(LIMIT):
            answer = await other.post("/chat/completions", json=CHAT | {"model": LIMITED})
            assert answer.status_code == 200
    await double.forget()


async def _flow(client: AsyncOpenAI) -> None:
    body: Any = CHAT | {"model": "flowing"}
    await asyncio.gather(*(client.chat.completions.create(**body) for _ in range(FLOW)))


async def test_a_model_that_is_used_up_holds_no_other_up(stack: Stack, double: Double) -> None:
    """And it is sent no more than refills: no worker that knows of that is refused.

    The bucket refills when all of the others are answered, by as much as it would have till then.
    """
    await eventually(lambda: stack.value(SERVING))
    await double.configure(requests_per_minute_of={LIMITED: LIMIT})
    await _use_up(double)
    used_up = time.monotonic()
    # More than one worker takes: so both take part, however late one is.
    await double.fault(PATH, holding=FLOWING, hang=True, times=CONCURRENCY + 1)
    async with stack.http() as http, stack.async_client(timeout=PATIENCE_SECONDS) as client:
        requests = Requests(http)
        left = await asyncio.gather(*(requests.leave(model="limited") for _ in range(STORM)))
        await eventually(lambda: stack.value(REFUSED))
        late = await requests.leave(model="limited")
        flow = asyncio.create_task(_flow(client))
        await double.until_held(CONCURRENCY + 1)
        await double.release()
        await flow

        async def reason() -> str | None:
            waits = (await requests.get(late["id"])).get("waits", {"reason": None})
            return waits["text"] if waits["reason"] == "rate_limited" else None

        text = await eventually(reason)
        assert text.startswith(f"The rate limit of '{LIMITED}' at 'cloud' is used up for")
        passed = time.monotonic() - used_up
        await double.advance(passed)
        await double.auto()
        for one in (*left, late):
            await requests.until(one["id"], "completed")
    calls = [(call.json()["model"], call.status) for call in (await double.seen()).of(PATH)]
    assert calls.count((FLOWING, 200)) == FLOW
    of_limited = [status for model, status in calls if model == LIMITED]
    # What a worker sent in time was refused, too, while the bucket stood still.
    most = WORKERS * (STORM + 1) + passed * LIMIT / 60
    assert 1 <= of_limited.count(429) <= most, "a worker had one refused twice"
    assert of_limited.count(200) == STORM + 1
    first = calls.index((LIMITED, 200))
    assert (FLOWING, 200) not in calls[first:], "the others were held up"
    assert len(await stack.fetch(FLOWED)) == WORKERS


async def test_a_storm_that_names_no_limits_is_of_its_model_alone(
    stack: Stack, double: Double
) -> None:
    """It is refused again and again, and answered when that is over."""
    headers = {"retry-after-ms": "10"}
    storm = await double.fault(PATH, holding=LIMITED, status=429, times=None, headers=headers)
    async with stack.http() as http, stack.async_client(timeout=PATIENCE_SECONDS) as client:
        requests = Requests(http)
        left = await asyncio.gather(*(requests.leave(model="limited") for _ in range(STORM)))
        await double.until(PATH, count=4 * STORM)
        await _flow(client)
        flowed = (await double.seen()).of(PATH)
        assert sum(call.status == 200 for call in flowed) == FLOW
        await double.until(PATH, count=len(flowed) + STORM)
        await double.clear(storm)
        for one in left:
            await requests.until(one["id"], "completed")
    calls = [(call.json()["model"], call.status) for call in (await double.seen()).of(PATH)]
    assert (FLOWING, 429) not in calls
    assert calls.count((LIMITED, 200)) == STORM
