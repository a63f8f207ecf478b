"""One trace from the client through the API, the queue and the worker to the engine, over OTLP."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from carpool import span_attributes as names
from tests.clients import CHAT, Requests
from tests.double.launch import Double
from tests.integration.cloud import CLOUD, PATH, PATIENT, UPSTREAM, cloud
from tests.otlp import Receiver, Span, receiving
from tests.stack import MODEL, Json, Stack, eventually, stack_in_temporary_directory

PROVIDER_KEY = "sk-planted-provider"
SECRET = "planted-prompt-7f3a"
PROTOBUF = "google/_upb"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
OF_A_REQUEST = {f"POST {PATH}", "queue", "claim", f"chat {MODEL}", "store"}
AWAY_FACTOR = 3.0
"""How much slower answers may be while the receiver is away."""
ROUNDS = 3
"""Of which the fastest counts: a loaded machine holds up the one stack now and the other then."""
FLUSHED_SECONDS = 25.0
"""The SDK by itself would wait for half a minute."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture(scope="module")
def traced_stack(
    served: str, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("config") / "carpool.toml"
    config.write_text(cloud(served, PROVIDER_KEY))
    env = SOON | {
        "CARPOOL_CONFIG": str(config),
        "CARPOOL_MAX_ATTEMPTS": "2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
    }
    with stack_in_temporary_directory(env) as started:
        yield started


class Trace:
    """A trace that a client began, and its spans by name."""

    def __init__(self, receiver: Receiver, flags: str = "01") -> None:
        self.id = uuid4().hex
        self.client = uuid4().hex[:16]
        self.headers = {"traceparent": f"00-{self.id}-{self.client}-{flags}"}
        self._receiver = receiver

    async def spans(self, *wanted: str, count: int = 1) -> dict[str, list[Span]]:
        """All that have come once each of the wanted has come so often."""

        def enough(spans: list[Span]) -> bool:
            found = [span.name for span in spans]
            return all(found.count(name) >= count for name in wanted)

        spans = await asyncio.to_thread(self._receiver.until, enough, self.id)
        return {name: [s for s in spans if s.name == name] for name in {s.name for s in spans}}


async def _post(stack: Stack, trace: Trace | None = None, **changes: Any) -> httpx.Response:
    async with stack.http() as http:
        headers = {} if trace is None else trace.headers
        return await http.post("/chat/completions", json=CHAT | changes, headers=headers)


async def test_one_trace_from_client_to_engine_and_back(
    traced_stack: Stack, receiver: Receiver
) -> None:
    """Each span has its parent, its time and its process; the client's id is that of all."""
    trace = Trace(receiver)
    answer = await _post(traced_stack, trace)
    assert answer.status_code == 200
    found = {k: v[0] for k, v in (await trace.spans(*OF_A_REQUEST)).items()}
    assert found.keys() == OF_A_REQUEST
    server, queue, claim = found[f"POST {PATH}"], found["queue"], found["claim"]
    engine, store = found[f"chat {MODEL}"], found["store"]
    assert server.parent == trace.client
    assert queue.parent == claim.parent == server.id
    assert engine.parent == store.parent == claim.id
    assert [server.kind, claim.kind, engine.kind] == ["SERVER", "CONSUMER", "INTERNAL"]
    assert server.service == "carpool-api"
    assert {s.service for s in (queue, claim, engine, store)} == {"carpool-worker"}
    assert queue.ended <= claim.ended
    assert claim.began <= engine.began <= engine.ended <= store.began <= store.ended <= claim.ended
    assert not any(span.failed for span in found.values())


async def test_spans_name_what_was_asked_and_used(traced_stack: Stack, receiver: Receiver) -> None:
    """By OpenTelemetry's GenAI and HTTP names, with the usage that the client was told."""
    trace = Trace(receiver)
    answer = await _post(traced_stack, trace)
    usage = answer.json()["usage"]
    found = await trace.spans(*OF_A_REQUEST)
    server = found[f"POST {PATH}"][0].attributes
    assert server["http.request.method"] == "POST"
    assert server["http.route"] == PATH
    assert server["http.response.status_code"] == 200
    assert server["server.port"] == httpx.URL(traced_stack.base_url).port
    assert server["gen_ai.operation.name"] == "chat"
    assert server["gen_ai.request.model"] == MODEL
    assert server["carpool.request.id"] == answer.headers["x-request-id"]
    engine = found[f"chat {MODEL}"][0].attributes
    assert engine["gen_ai.operation.name"] == "chat"
    assert engine["gen_ai.provider.name"] == "simulated"
    assert engine["gen_ai.request.model"] == engine["gen_ai.response.model"] == MODEL
    assert engine["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert engine["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    claim = found["claim"][0].attributes
    assert claim["carpool.request.id"] == answer.headers["x-request-id"]
    assert claim["carpool.backend"] == "simulated"
    assert claim["carpool.run.id"].startswith("run_")
    assert found["store"][0].attributes[names.STORED] is True


async def test_a_stream_is_one_trace_too(traced_stack: Stack, receiver: Receiver) -> None:
    trace = Trace(receiver)
    answer = await _post(traced_stack, trace, stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    found = await trace.spans(*OF_A_REQUEST)
    assert found[f"POST {PATH}"][0].attributes["gen_ai.request.stream"] is True


async def test_a_retried_attempt_is_two_computations(
    traced_stack: Stack, receiver: Receiver
) -> None:
    """The first is an error with the status of its failure; the second is none; one wait."""
    trace = Trace(receiver)
    knobs: Json = {"status": 503, "times": 1, "retry_after_seconds": 0.01}
    answer = await _post(traced_stack, trace, carpool_simulate=knobs)
    assert answer.status_code == 200
    found = await trace.spans("claim", f"chat {MODEL}", count=2)
    first, second = sorted(found[f"chat {MODEL}"], key=lambda span: span.began)
    assert (first.failed, second.failed) == (True, False)
    assert first.attributes["error.type"] == "503"
    assert "error.type" not in second.attributes
    assert sorted(span.attributes[names.EPOCH] for span in found["claim"]) == [1, 2]
    assert len(found["queue"]) == len(found["store"]) == 1
    server = (await trace.spans(f"POST {PATH}"))[f"POST {PATH}"][0]
    assert {span.parent for span in found["claim"]} == {server.id}


async def test_an_error_is_an_error(traced_stack: Stack, receiver: Receiver) -> None:
    """A lasting one is the engine's and the client's, and no failure of the server."""
    trace = Trace(receiver)
    answer = await _post(traced_stack, trace, carpool_simulate={"status": 422})
    assert answer.status_code == 422
    found = await trace.spans(*OF_A_REQUEST)
    engine, server = found[f"chat {MODEL}"][0], found[f"POST {PATH}"][0]
    assert (engine.failed, engine.attributes["error.type"]) == (True, "422")
    assert (server.failed, server.attributes["http.response.status_code"]) == (False, 422)


async def test_a_request_that_fails_for_good_fails_its_trace(
    traced_stack: Stack, receiver: Receiver, double: Double
) -> None:
    trace = Trace(receiver)
    await double.fault(PATH, status=500, times=None, headers={"retry-after-ms": "1"})
    answer = await _post(traced_stack, trace, model=CLOUD)
    assert answer.status_code == 500
    await double.clear()
    found = await trace.spans(f"POST {PATH}", "store")
    assert len(found[f"chat {CLOUD}"]) == 2
    [server] = found[f"POST {PATH}"]
    assert (server.failed, server.attributes["error.type"]) == (True, "500")


async def test_the_provider_is_told_of_the_trace(
    traced_stack: Stack, receiver: Receiver, double: Double
) -> None:
    """Its `traceparent` is that of our call, so that its own spans become children."""
    trace = Trace(receiver)
    assert (await _post(traced_stack, trace, model=CLOUD)).status_code == 200
    found = await trace.spans("store", "claim")
    [engine] = found[f"chat {CLOUD}"]
    [call] = found["POST"]
    assert call.kind == "CLIENT"
    assert engine.kind == "CLIENT"
    assert engine.attributes["gen_ai.provider.name"] == "openai"
    assert engine.attributes["gen_ai.response.model"] == UPSTREAM
    assert call.parent == engine.id
    assert call.attributes["server.address"] == "127.0.0.1"
    assert call.attributes["server.port"] == double.port
    assert call.attributes["http.response.status_code"] == 200
    [seen] = (await double.seen()).of(PATH)
    assert seen.headers["traceparent"] == f"00-{trace.id}-{call.id}-01"


async def test_lines_of_a_batch_have_traces_of_their_own(
    traced_stack: Stack, receiver: Receiver
) -> None:
    async with traced_stack.async_client() as client:
        lines = [_line(f"{SECRET}-{number}", MODEL) for number in range(2)]
        file = await client.files.create(
            file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch"
        )
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

    def of_batch(spans: list[Span]) -> list[Span]:
        return [s for s in spans if s.attributes.get(names.BATCH) == batch.id and s.name == "claim"]

    spans = await asyncio.to_thread(receiver.until, lambda spans: len(of_batch(spans)) == 2)
    claims = of_batch(spans)
    assert {claim.parent for claim in claims} == {""}
    assert len({claim.trace for claim in claims}) == 2
    waits = [s for s in spans if s.name == "queue" and s.parent in {c.id for c in claims}]
    assert len(waits) == 2


async def test_a_provider_batch_is_a_span(
    traced_stack: Stack, receiver: Receiver, double: Double
) -> None:
    await double.auto(3600)
    async with traced_stack.http() as http:
        requests = Requests(http)
        left = await requests.leave(model=PATIENT, service_tier="flex")
        await requests.until(left["id"], "completed")
    spans = await asyncio.to_thread(
        receiver.until, lambda spans: any(s.name == "provider batch" for s in spans)
    )
    [batch] = [span for span in spans if span.name == "provider batch"]
    assert batch.attributes[names.BACKEND] == "later"
    assert batch.attributes["gen_ai.request.model"] == PATIENT
    assert batch.attributes[names.LINES] == 1
    assert batch.began < batch.ended
    assert not batch.failed


async def test_what_the_client_does_not_sample_is_not_recorded(
    traced_stack: Stack, receiver: Receiver
) -> None:
    """The worker obeys too: the flag goes through the queue."""
    silent, loud = Trace(receiver, flags="00"), Trace(receiver)
    assert (await _post(traced_stack, silent)).status_code == 200
    stored = await traced_stack.value(
        "select traceparent from requests where traceparent like $1", f"00-{silent.id}-%"
    )
    assert stored.endswith("-00")
    await _post(traced_stack, loud)
    await loud.spans(*OF_A_REQUEST)
    assert not [span for span in receiver.spans if span.trace == silent.id]


@pytest.mark.parametrize("hostile", ["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 600, "é"])
async def test_a_traceparent_that_is_none_counts_as_none(
    traced_stack: Stack, receiver: Receiver, hostile: str
) -> None:
    async with traced_stack.http() as http:
        headers = {b"traceparent": hostile.encode("latin-1")}
        answer = await http.post("/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200
    identifier = answer.headers["x-request-id"]

    def mine(spans: list[Span]) -> list[Span]:
        return [s for s in spans if s.attributes.get(names.REQUEST) == identifier]

    spans = await asyncio.to_thread(receiver.until, lambda spans: len(mine(spans)) == 3)
    server = next(span for span in mine(spans) if span.kind == "SERVER")
    assert server.parent == ""


async def test_logs_tell_the_trace(traced_stack: Stack, receiver: Receiver) -> None:
    trace = Trace(receiver)
    knobs: Json = {"status": 503, "times": 1, "retry_after_seconds": 0.01}
    await _post(traced_stack, trace, carpool_simulate=knobs)

    async def told() -> bool:
        lines = [line for line in traced_stack.output().splitlines() if trace.id in line]
        return any("attempt_failed" in line for line in lines)

    await eventually(told)


async def test_no_span_holds_content_or_a_key(
    traced_stack: Stack, receiver: Receiver, double: Double
) -> None:
    """Not of prompts, answers, tool arguments or keys, in success and in failure."""
    messages = [{"role": "user", "content": SECRET}]
    tools = [{"type": "function", "function": {"name": "f", "description": f"{SECRET}-tool"}}]
    await double.fault(PATH, status=400, times=1, body=f'{{"error": {{"message": "{SECRET}"}}}}')
    trace = Trace(receiver)
    for model in (CLOUD, CLOUD, MODEL):
        answer = await _post(
            traced_stack, trace, model=model, messages=messages, tools=tools, user=f"{SECRET}-user"
        )
    assert answer.status_code == 200
    await trace.spans("store", count=3)
    text = answer.json()["choices"][0]["message"]["content"]
    hidden = (SECRET, text, traced_stack.api_key, traced_stack.admin_key, PROVIDER_KEY)
    raw = bytes(receiver.raw)
    assert not [one for one in hidden if one.encode() in raw]
    assert not [span for span in receiver.spans if span.events]


@contextmanager
def _deaf_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1000)
        yield int(deaf.getsockname()[1])


async def test_a_receiver_that_is_away_slows_nothing(stack: Stack) -> None:
    """Answers come, about as fast as without traces, and the end of the stack is not held up."""
    with _deaf_port() as port:
        environment = SOON | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_MAX_QUEUE_SIZE": "64",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
        }
        with stack_in_temporary_directory(environment) as deaf:
            await _seconds(deaf, 20)
            rounds = [
                (await _seconds(stack, 200), await _seconds(deaf, 200)) for _ in range(ROUNDS)
            ]
            usual, away = (min(seconds) for seconds in zip(*rounds, strict=True))
            assert away < usual * AWAY_FACTOR + 1
            began = time.monotonic()
            assert deaf.stop() == 0
            assert time.monotonic() - began < FLUSHED_SECONDS


async def _seconds(stack: Stack, number: int) -> float:
    """How long so many requests take, eight at a time."""
    async with stack.http() as http:
        slots = asyncio.Semaphore(8)

        async def ask() -> None:
            async with slots:
                answer = await http.post("/chat/completions", json=CHAT)
                assert answer.status_code == 200

        began = time.monotonic()
        await asyncio.gather(*(ask() for _ in range(number)))
        return time.monotonic() - began


async def test_nothing_is_stored_or_loaded_while_tracing_is_off(
    stack: Stack, traced_stack: Stack
) -> None:
    """Not even the SDK, whose protobuf is seen among what a process has mapped."""
    trace = uuid4().hex
    async with stack.http() as http:
        headers = {"traceparent": f"00-{trace}-{trace[:16]}-01"}
        await http.post("/chat/completions", json=CHAT, headers=headers)
    assert await stack.value("select count(*) from requests where traceparent is not null") == 0

    assert not any(PROTOBUF in _mapped(pid) for pid in stack.pids().values())
    assert PROTOBUF in _mapped(traced_stack.pid("api"))


def _mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def _line(prompt: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return httpx.Request(
        "POST", "http://x", json={"custom_id": prompt, "method": "POST", "url": PATH, "body": body}
    ).content.decode()
