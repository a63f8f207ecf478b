"""A provider's answers, refusals and batches are counted once each; its words are no labels."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from openai import BadRequestError

from tests.batches import Batches, lines
from tests.clients import CHAT
from tests.double.launch import Double, serving
from tests.figures import Scrape, doors, scrape
from tests.stack import Stack, eventually, stack_in_temporary_directory

LIVE, PATIENT = "live", "patient"
UPSTREAM = "gpt-6-luna"
PATH = "/v1/chat/completions"
COUNT_SECONDS = 120.0
"""What is counted seldom on a loaded machine is waited for."""
SPEED = 200.0
"""Of the double's clock, so that a batch takes less than a second."""
CONFIG = """
[backends.live]
kind = "openai"
base_url = "{url}"
api_key = "sk-any"
models = ["gpt-6-luna"]

[backends.patient]
kind = "openai_batch"
base_url = "{url}"
api_key = "sk-any"
gather_seconds = 0.3
poll_seconds = 0.1
windows = {{ "24h" = 0.5 }}

[models.live]
backends = ["live"]
upstream = "gpt-6-luna"

[models.patient]
backends = ["patient"]
upstream = "gpt-6-luna"

[[prices]]
model = "gpt-6-luna"
since = 2026-01-01
input = 0.10
output = 0.50
"""


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def stack(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("config") / "carpool.toml"
    config.write_text(CONFIG.format(url=served))
    env = {"CARPOOL_CONFIG": str(config), "CARPOOL_METRICS_PORT": "0"}
    with stack_in_temporary_directory(env) as started:
        yield started


@pytest_asyncio.fixture
async def double(served: str, stack: Stack) -> AsyncIterator[Double]:
    """A fresh one, whose pauses the stack has forgotten."""
    async with Double(url=served) as attached:
        await stack.fetch("update model_limits set paused_until = null")
        yield attached


async def worker(stack: Stack, backend: str, done: float) -> Scrape:
    """The figures of a backend's worker once it has counted so many attempts that ended."""

    async def look() -> Scrape | None:
        for url in doors(stack):
            seen = await scrape(url)
            if sum(outcomes(seen, backend).values()) == done:
                return seen
        return None

    return await eventually(look)


def outcomes(seen: Scrape, name: str) -> dict[str, float]:
    """How many attempts of a model, by outcome."""
    labels = {"backend": name, "model": name}
    return {
        outcome: seen.value("carpool_attempts_total", **labels, outcome=outcome) or 0
        for outcome in ("completed", "failed", "retried", "limited", "dropped")
    }


async def test_refusals_are_told_from_failures(stack: Stack, double: Double) -> None:
    """Two rate limits, one 500 and the answer; then a lasting error with a code of its own."""
    await double.fault(PATH, status=429, times=2, headers={"retry-after-ms": "10"})
    await double.fault(PATH, status=500, times=1, headers={"retry-after-ms": "10"})
    evil = {"message": "no", "type": "t", "param": None, "code": '"} 1\nevil{a="'}
    async with stack.async_client() as client:
        chat: Any = CHAT | {"model": LIVE}
        answer = await client.chat.completions.create(**chat)
        await double.fault(PATH, status=400, times=1, body={"error": evil})
        with pytest.raises(BadRequestError):
            await client.chat.completions.create(**chat)
    assert answer.usage is not None
    seen = await worker(stack, LIVE, 5)
    assert outcomes(seen, LIVE) == {
        "completed": 1,
        "failed": 1,
        "retried": 1,
        "limited": 2,
        "dropped": 0,
    }
    codes = {
        code: seen.value("carpool_errors_total", backend=LIVE, code=code)
        for code in seen.values_of("code")
    }
    assert codes == {"rate_limit_exceeded": 2, "none": 1, "other": 1}
    labels = {"backend": LIVE, "model": LIVE, "class": "interactive"}
    assert seen.value("carpool_claims_total", **labels) == 5
    assert seen.value("carpool_queue_wait_seconds_count", **labels) == 2
    assert seen.value("carpool_request_duration_seconds_count", **labels) == 2
    tokens = seen.value("carpool_output_tokens_total", backend=LIVE, model=LIVE)
    assert tokens == answer.usage.completion_tokens
    assert "evil" not in seen.text


async def test_a_pause_that_a_provider_asks_for_is_shown(stack: Stack, double: Double) -> None:
    await double.fault(PATH, status=429, times=1, headers={"retry-after": "600"})
    async with stack.http() as http:
        answer = await http.post(
            "/chat/completions", json=CHAT | {"model": LIVE}, headers={"prefer": "respond-async"}
        )
        assert answer.status_code == 202

    async def paused() -> float | None:
        seen = await scrape(stack.root_url)
        return seen.value("carpool_backend_pause_seconds", backend=LIVE, upstream=UPSTREAM)

    assert 500 < await eventually(paused) <= 600


async def test_a_providers_batch_is_counted_line_by_line(stack: Stack, double: Double) -> None:
    await double.auto(SPEED)
    async with stack.http() as http:
        batches = Batches(http)
        batch = await batches.run(lines(5, body={"model": PATIENT}))
        output, _ = await batches.proven(batch, [f"r{n}" for n in range(5)])
    usages = [line["response"]["body"]["usage"] for line in output]
    seen = await worker(stack, PATIENT, 5)
    labels = {"backend": PATIENT, "model": PATIENT}
    assert seen.value("carpool_provider_batch_size_sum", **labels) == 5
    assert outcomes(seen, PATIENT) == {**dict.fromkeys(outcomes(seen, PATIENT), 0), "completed": 5}
    for name, field in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        counted = seen.value(f"carpool_{name}_tokens_total", **labels)
        assert counted == sum(usage[field] for usage in usages)

    async def folded() -> Scrape | None:
        api = await scrape(stack.root_url)
        ended = api.value("carpool_requests_ended_total", model=PATIENT, outcome="completed")
        return api if ended == 5 and api.value("carpool_batches", status="completed") else None

    api = await eventually(folded, COUNT_SECONDS)
    assert api.value("carpool_batches", status="completed") == 1
    assert api.value("carpool_batch_lines_left") == 0
    [[paid, saved]] = await stack.fetch(
        "select sum(paid) / 1e9, sum(saved_window) / 1e9 from results where model = $1", PATIENT
    )
    assert paid
    assert api.value("carpool_paid_dollars_total", model=PATIENT) == pytest.approx(float(paid))
    window = api.value("carpool_saved_dollars", model=PATIENT, means="window")
    assert window == pytest.approx(float(saved))
