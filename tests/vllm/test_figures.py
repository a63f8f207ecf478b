"""What a real vLLM engine says of itself reaches an operator, by way of its worker's heartbeat."""

import httpx
import pytest

from tests.stack import Json, Stack, eventually
from tests.vllm.conftest import served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
PREFIX = "The yard opens at seven and closes at nine. " * 12


async def test_an_operator_sees_what_the_engine_does(stack: Stack) -> None:
    """The prompts share a prefix, which the second finds in the cache."""
    await served(stack)
    async with stack.http() as http:
        for name in ("Ann", "Bob", "Cid"):
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": PREFIX + name}],
                "max_tokens": 4,
            }
            answer = await http.post("/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
    headers = {"authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=f"{stack.root_url}/admin/v1", headers=headers) as admin:

        async def told() -> Json | None:
            [backend] = (await admin.get("/overview")).json()["backends"]
            engine: Json = backend["engine"]
            if not engine or not engine["prefix_cache_hit_rate"]:
                return None
            return engine if (engine["running"], engine["waiting"]) == (0, 0) else None

        engine = await eventually(told)
    assert 0 <= engine["kv_cache_usage"] < 1
    assert 0 < engine["prefix_cache_hit_rate"] < 1
