"""The engine's own spans join the request's trace, and its logs tell no prompt."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from tests.otlp import receiving
from tests.stack import stack_in_temporary_directory
from tests.vllm.conftest import ARGUMENTS, served, vllm_environment

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

SECRET = "planted-prompt-9d2b"
ENGINE_SPAN = "llm_request"


async def test_a_trace_reaches_into_the_engine(tiny_model: Path) -> None:
    """Though the operator asks for it, vLLM logs no request."""
    trace, client = uuid4().hex, uuid4().hex[:16]
    with receiving() as receiver:
        asked = f"--otlp-traces-endpoint {receiver.url}/v1/traces --enable-log-requests"
        env = vllm_environment(tiny_model) | {
            "CARPOOL_VLLM_ARGS": f"{ARGUMENTS} {asked}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with stack_in_temporary_directory(env) as stack:
            await served(stack)
            body = {
                "model": tiny_model.name,
                "messages": [{"role": "user", "content": SECRET}],
                "max_tokens": 4,
            }
            async with stack.http() as http:
                headers = {"traceparent": f"00-{trace}-{client}-01"}
                answer = await http.post("/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            names = {ENGINE_SPAN, f"chat {tiny_model.name}"}
            spans = await asyncio.to_thread(
                receiver.until, lambda spans: names <= {span.name for span in spans}, trace
            )
            found = {span.name: span for span in spans}
            assert found[ENGINE_SPAN].parent == found[f"chat {tiny_model.name}"].id
            assert found[f"chat {tiny_model.name}"].attributes["gen_ai.provider.name"] == "vllm"
            assert SECRET not in stack.output()
            assert SECRET.encode() not in receiver.raw
