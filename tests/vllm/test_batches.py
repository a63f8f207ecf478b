"""A batch runs in vLLM's continuous batches; what a dry run counts is what the engine counts."""

from collections.abc import AsyncIterator

import pytest

from db.keys import NewKey
from tests.batches import URL, Batches, Json
from tests.stack import Stack
from tests.vllm.conftest import served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.usefixtures("quiet")]

LINES = 300


@pytest.fixture
async def batches(stack: Stack, team: NewKey) -> AsyncIterator[Batches]:
    """`/v1/batches` of the test's team, once the engine serves."""
    await served(stack)
    async with stack.http(team.secret) as http:
        yield Batches(http)


def chat(number: int) -> Json:
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "The driver asks each of them where they want to go."},
            {"role": "user", "content": f"Seat {number}, \u00fcber {number % 7} bridges?"},
        ],
        "max_tokens": 8,
        "ignore_eos": True,
    }
    return {"custom_id": f"r{number}", "method": "POST", "url": URL, "body": body}


async def test_a_batch_in_real_vllm_and_its_dry_run_count_the_same_tokens(
    batches: Batches,
) -> None:
    file = await batches.upload(chat(number) for number in range(LINES))
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
    dry = await batches.ask("POST", "/batches?dry_run=true", json=body)
    batch = await batches.ended((await batches.of_file(file))["id"])
    assert batch["status"] == "completed"
    output, _ = await batches.proven(batch, (f"r{number}" for number in range(LINES)))
    assert len(output) == LINES
    assert batch["usage"]["output_tokens"] == 8 * LINES == dry["tokens"]["max_output"]
    assert dry["tokens"]["counted_by"] == "tokenizer"
    assert dry["tokens"]["input"] == batch["usage"]["input_tokens"]


async def test_a_line_that_the_engine_refuses_fails_alone(batches: Batches) -> None:
    long = chat(1)
    long["body"]["messages"][1]["content"] = "seven " * 3000
    batch = await batches.run([chat(0), long])
    _, [error] = await batches.proven(batch, ["r0", "r1"])
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["code"] == "context_length_exceeded"
