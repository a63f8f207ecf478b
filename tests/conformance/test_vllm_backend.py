"""vLLM batches what comes at once, orders it by class, and its death is told to all in flight."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from prometheus_client import REGISTRY

from carpool.errors import ConfigurationError, EngineDied, PassingError
from carpool.settings import VLLMSettings
from carpool.states import Endpoint, ServiceClass
from tests.conformance import harness
from tests.conformance.harness import AWAY, VLLM_WARNINGS, Harness, Json
from tests.conformance.patience import until
from workers.backends.registry import make

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.vllm,
    pytest.mark.timeout(1200),
    *VLLM_WARNINGS,
]

MESSAGES = [{"role": "user", "content": "Who leaves the yard at seven?"}]
CONCURRENT = 300
SEATS = 128
RUNNING = "vllm:num_requests_running"
"""How many sequences the engine's last step computed."""
STEPS = "vllm:iteration_tokens_total_count"


def _chat(**changes: Any) -> Json:
    return {"messages": MESSAGES, "max_tokens": 4, **changes}


def _figure(name: str) -> float:
    """What the engine's process reports of itself."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == name
    )


@contextmanager
def _standing() -> Iterator[None]:
    """The engine gets what comes meanwhile at once, at the end, however slowly it comes."""
    [engine] = [child for child in psutil.Process().children() if "EngineCore" in child.name()]
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


async def test_hundreds_at_once_are_one_batch(vllm: Harness) -> None:
    calls = [
        vllm.call(_chat(max_tokens=24, ignore_eos=True, seed=number))
        for number in range(CONCURRENT)
    ]
    before = _figure(STEPS)
    with _standing():
        tasks = [asyncio.create_task(vllm.backend.answer(call, _ignore)) for call in calls]
        await until(lambda: vllm.running() == CONCURRENT)
    answers = await asyncio.gather(*tasks)
    assert {answer.usage.completion_tokens for answer in answers} == {24}
    assert vllm.running() == 0
    assert 0 < _figure(STEPS) - before < CONCURRENT * 24 / 50


async def test_capacity_is_the_engines_seats_and_a_little_more(vllm: Harness) -> None:
    assert vllm.backend.capacity == SEATS + 8


async def test_cancelling_stops_the_computation(vllm: Harness) -> None:
    calls = [vllm.slow_call({"messages": MESSAGES, "stream": n % 2 == 0}) for n in range(20)]
    tasks = [asyncio.create_task(vllm.backend.answer(call, _ignore)) for call in calls]
    await until(lambda: _figure(RUNNING) >= 20)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ended} == {asyncio.CancelledError}
    assert vllm.running() == 0
    await vllm.answer(_chat(max_tokens=3))
    assert _figure(RUNNING) <= 1


async def test_cancelling_many_prompts_of_one_request(vllm: Harness) -> None:
    call = vllm.call(
        {"prompt": ["one", "two", "three"], "max_tokens": 1900, "ignore_eos": True},
        endpoint=Endpoint.COMPLETIONS,
    )
    task = asyncio.create_task(vllm.backend.answer(call, _ignore))
    await until(lambda: vllm.running() == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: vllm.running() == 0)


async def test_a_shared_prefix_is_counted_as_cached(vllm: Harness) -> None:
    question = [{"role": "user", "content": "The carpool leaves the yard. " * 60}]
    await vllm.answer({"messages": question, "max_tokens": 2})
    again = await vllm.answer({"messages": question, "max_tokens": 2})
    assert 0 < again.usage.cached_tokens < again.usage.prompt_tokens
    streamed = await vllm.answer({"messages": question, "max_tokens": 2, "stream": True})
    assert streamed.usage == again.usage


async def test_interactive_work_overtakes_batch_work_that_waits(vllm: Harness) -> None:
    """More batch work than the engine has seats; what comes last and is interactive is not last.

    It gets the first seat that is left, and is short: all that ended before had a seat before.
    """
    ended: list[ServiceClass] = []

    async def run(service_class: ServiceClass, tokens: int) -> None:
        body = _chat(max_tokens=tokens, ignore_eos=True, priority=-5)
        call = vllm.call(body, service_class=service_class)
        await vllm.backend.answer(call, _ignore)
        ended.append(service_class)

    with _standing():
        tasks = [asyncio.create_task(run(ServiceClass.BATCH, 40)) for _ in range(CONCURRENT)]
        await until(lambda: vllm.running() == CONCURRENT)
        tasks.append(asyncio.create_task(run(ServiceClass.INTERACTIVE, 4)))
        await until(lambda: vllm.running() == CONCURRENT + 1)
    await asyncio.gather(*tasks)
    assert ended.index(ServiceClass.INTERACTIVE) <= SEATS


async def test_an_abort_inside_the_engine_is_no_success(vllm: Harness) -> None:
    engine: Any = vllm.backend
    for stream in (False, True):
        call = vllm.slow_call({"messages": MESSAGES, "stream": stream})
        task = asyncio.create_task(vllm.backend.answer(call, _ignore))
        await until(lambda: _figure(RUNNING) >= 1 and vllm.running() == 1)
        await engine._engine._llm.abort(f"chatcmpl-{call.id.hex}")
        with pytest.raises(PassingError, match="abort"):
            await task


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"messages": MESSAGES, "temperature": "hot"}, 400, "temperature", None),
        ({"messages": MESSAGES, "temperature": -3}, 400, "temperature", None),
        ({"messages": MESSAGES, "max_tokens": 5000}, 400, "max_tokens", None),
        ({"messages": MESSAGES, "stream_options": 3, "stream": True}, 400, "stream_options", None),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages", None),
        ({}, 400, "messages", "missing_required_parameter"),
    ],
)
async def test_what_it_cannot_take(
    vllm: Harness, body: Json, status: int, param: str, code: str | None, stream: bool
) -> None:
    if "stream" in body and not stream:
        body = {**body, "stream": True}
    answer = await vllm.answer({"stream": stream, **body})
    error = msgspec.json.decode(answer.body)["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert "parameter=" not in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_that_only_the_first_step_finds(vllm: Harness, stream: bool) -> None:
    answer = await vllm.answer({"prompt": [99999], "stream": stream}, endpoint=Endpoint.COMPLETIONS)
    assert (answer.status, vllm.emitted) == (400, [])


@pytest.mark.parametrize("endpoint", list(Endpoint))
async def test_an_unknown_model_is_a_404(vllm: Harness, endpoint: Endpoint) -> None:
    body = {"messages": MESSAGES, "prompt": "a", "input": "a"}
    answer = await vllm.answer(body, endpoint=endpoint, upstream="nobody")
    assert answer.status == 404
    assert msgspec.json.decode(answer.body)["error"]["code"] == "model_not_found"


async def test_structured_output(vllm: Harness) -> None:
    schema = {"type": "object", "properties": {"seat": {"enum": [1]}}, "required": ["seat"]}
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    found = await vllm.decoded(_chat(max_tokens=60, response_format=shape, temperature=0))
    assert found["choices"][0]["message"]["content"].lstrip().startswith("{")


async def test_arguments_that_vllm_refuses() -> None:
    for args in (("--no-such-option",), ("--served-model-name", "x")):
        settings = VLLMSettings(kind="vllm", model="nowhere", args=args)
        with pytest.raises(ConfigurationError, match=r"backends\.gpu\.args"):
            await make("gpu", settings, AWAY).start()


async def test_a_killed_engine_is_told_to_all_in_flight_and_leaves_nothing(
    vllm_environment: None, tiny_model: Path
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    async with harness.vllm(str(tiny_model)) as backend:
        children = [
            child
            for child in psutil.Process().children(recursive=True)
            if child.pid not in before and "resource_tracker" not in " ".join(child.cmdline())
        ]
        (engine,) = [child for child in children if "EngineCore" in child.name()]
        calls = [backend.slow_call({"messages": MESSAGES, "stream": n % 2 == 0}) for n in range(8)]
        tasks = [asyncio.create_task(backend.backend.answer(call, _ignore)) for call in calls]
        await until(lambda: backend.running() == len(calls))
        engine.kill()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ended} == {EngineDied}
        with pytest.raises(EngineDied):
            await backend.backend.health()
        with pytest.raises(EngineDied):
            await backend.answer(_chat())
    await until(lambda: not any(_lives(child) for child in children))


async def test_embeddings_of_a_pooling_engine(vllm_environment: None, tiny_model: Path) -> None:
    async with harness.vllm(
        str(tiny_model), "--runner", "pooling", "--convert", "embed"
    ) as backend:
        backend.embeds = True
        found = await backend.decoded({"input": ["one", "two"]}, endpoint=Endpoint.EMBEDDINGS)
        assert [item["index"] for item in found["data"]] == [0, 1]
        assert found["model"] == harness.MODEL
        packed = await backend.decoded(
            {"input": [5, 6], "encoding_format": "base64"}, endpoint=Endpoint.EMBEDDINGS
        )
        assert isinstance(packed["data"][0]["embedding"], str)
        refused = await backend.answer(_chat())
        assert msgspec.json.decode(refused.body)["error"]["code"] == "unsupported_endpoint"
        too_long = await backend.answer({"input": "word " * 9000}, endpoint=Endpoint.EMBEDDINGS)
        error = msgspec.json.decode(too_long.body)["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def _ignore(_: bytes) -> None:
    """Take a chunk that no test looks at."""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
