"""A vLLM worker killed in mid-run leaves no engine behind, and all it held is answered after it."""

import asyncio
import os
import signal

import psutil
import pytest
from openai import AsyncOpenAI

from db.keys import NewKey
from tests.faults.load import in_flight, settled
from tests.stack import Stack
from tests.vllm.conftest import START_SECONDS

REQUESTS = 100
TOKENS = 1000
"""Enough that all are in flight together, also with an engine that is warm."""
WORKER = "worker vllm-1"


async def ask(client: AsyncOpenAI, model: str, number: int) -> int:
    """The completion tokens of one answer."""
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Who leaves the yard at {number}?"}],
        max_tokens=TOKENS,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    return answer.usage.completion_tokens


@pytest.mark.vllm
@pytest.mark.timeout(1200)
async def test_a_killed_worker_leaves_no_engine_and_its_successor_answers_all(
    stack: Stack, team: NewKey
) -> None:
    async with stack.async_client(api_key=team.secret, max_retries=2) as client:
        asking = [asyncio.create_task(ask(client, "tiny", n)) for n in range(REQUESTS)]
        await in_flight(stack, REQUESTS, START_SECONDS)
        worker = psutil.Process(stack.pid(WORKER))
        engines = worker.children(recursive=True)
        assert engines
        os.kill(worker.pid, signal.SIGKILL)
        _, alive = await asyncio.to_thread(psutil.wait_procs, [worker, *engines], 10)
        assert not alive
        async with asyncio.timeout(START_SECONDS):
            tokens = await asyncio.gather(*asking)
        await settled(stack)
    assert tokens == [TOKENS] * REQUESTS
    mine = "from {} where team_id = (select team_id from keys where id = $1)"
    completed = f"select count(*) {mine.format('results')} and outcome = 0"
    assert await stack.value(completed, team.id) == REQUESTS
    assert await stack.value(f"select count(*) {mine.format('attempts')}", team.id) == REQUESTS
    assert stack.pid(WORKER) != worker.pid
