"""A worker with vLLM shows the engine's own figures beside its runs'."""

import re
from pathlib import Path

import pytest

from tests.clients import CHAT
from tests.figures import Scrape, doors, scrape
from tests.stack import Stack, eventually
from tests.vllm.conftest import served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.usefixtures("quiet")]

TABLE = Path(__file__).parents[2] / "deploy" / "METRICS.md"


async def _worker(stack: Stack) -> Scrape:
    """The figures of the process with the engine."""
    [seen] = [s for url in doors(stack) if "carpool_claims_total" in (s := await scrape(url)).types]
    return seen


async def test_the_engines_own_figures_are_shown(stack: Stack, tiny_model: Path) -> None:
    """All that the table names, and what they count is what was computed."""
    await served(stack)
    before = await _worker(stack)
    async with stack.async_client() as client:
        answer = await client.chat.completions.create(
            **CHAT | {"model": tiny_model.name}, max_tokens=8
        )
    usage = answer.usage
    assert usage is not None

    async def counted() -> Scrape | None:
        now = await _worker(stack)
        tokens = "vllm:generation_tokens_total"
        return now if now.sum(tokens) - before.sum(tokens) == usage.completion_tokens else None

    seen = await eventually(counted)
    engine = {name for name in seen.types if name.startswith("vllm:")}
    assert set(re.findall(r"`(vllm:\w+)`", TABLE.read_text())) <= engine
    labels = {"backend": "vllm", "model": tiny_model.name}
    made = [one.value("carpool_output_tokens_total", **labels) or 0 for one in (before, seen)]
    assert made[1] - made[0] == usage.completion_tokens
    assert seen.sum("carpool_engine_ready") == 1
