"""The simulated backend is deterministic, keeps its pace, and fails as a test asks it to."""

import asyncio
import base64
import struct
import sys
import time
from typing import Any

import msgspec
import pytest

from carpool.errors import PassingError
from carpool.ids import new_id
from carpool.states import Endpoint
from tests.conformance import harness
from tests.conformance.harness import Harness, Json

MESSAGES = [{"role": "user", "content": "Who leaves the yard at seven?"}]

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _chat(**changes: Any) -> Json:
    return {"messages": MESSAGES, **changes}


async def _text(backend: Harness, body: Json) -> str:
    found = await backend.decoded(body)
    text: str = found["choices"][0]["message"]["content"]
    return text


async def test_says_that_it_is_simulated_and_always_the_same(simulated: Harness) -> None:
    first = await _text(simulated, _chat())
    assert first.startswith("simulated: ")
    assert first == await _text(simulated, _chat())
    other = [{"role": "user", "content": "Who leaves the yard at eight?"}]
    assert first != await _text(simulated, {"messages": other})


async def test_choices_of_one_request_differ(simulated: Harness) -> None:
    found = await simulated.decoded(_chat(n=2))
    one, two = (choice["message"]["content"] for choice in found["choices"])
    assert one != two


@pytest.mark.parametrize(
    ("body", "tokens", "reason"),
    [
        ({}, 16, "stop"),
        ({"max_tokens": 8}, 8, "length"),
        ({"max_completion_tokens": 3, "max_tokens": 8}, 3, "length"),
    ],
)
async def test_as_many_tokens_as_asked(
    simulated: Harness, body: Json, tokens: int, reason: str
) -> None:
    answer = await simulated.answer(_chat(**body))
    assert answer.usage.completion_tokens == tokens
    found = msgspec.json.decode(answer.body)
    assert len(found["choices"][0]["message"]["content"].split()) == tokens
    assert found["choices"][0]["finish_reason"] == reason


async def test_eight_tokens_are_nine_chunks(simulated: Harness) -> None:
    await simulated.answer(_chat(max_tokens=8, stream=True))
    assert len(simulated.emitted) == 9


async def test_content_in_parts_counts_as_words(simulated: Harness) -> None:
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "x"}}]
    answer = await simulated.answer({"messages": [{"role": "user", "content": parts}]})
    assert answer.status == 200
    assert answer.usage.prompt_tokens == 4


async def test_embeddings_in_both_encodings(simulated: Harness) -> None:
    body = {"input": "one", "dimensions": 5}
    floats = await simulated.decoded(body, endpoint=Endpoint.EMBEDDINGS)
    packed = await simulated.decoded(
        {**body, "encoding_format": "base64"}, endpoint=Endpoint.EMBEDDINGS
    )
    vector = floats["data"][0]["embedding"]
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<5f", raw)) == pytest.approx(vector)


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2], [[1, 2], [3]]])
async def test_embeddings_take_every_form(simulated: Harness, given: Any) -> None:
    found = await simulated.decoded({"input": given}, endpoint=Endpoint.EMBEDDINGS)
    expected = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert len(found["data"]) == expected


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (Endpoint.CHAT, {"messages": []}, "messages"),
        (Endpoint.CHAT, {"messages": "hello"}, "messages"),
        (Endpoint.CHAT, _chat(n=0), "n"),
        (Endpoint.CHAT, _chat(max_tokens=0), "max_tokens"),
        (Endpoint.CHAT, _chat(max_tokens="many"), "max_tokens"),
        (Endpoint.COMPLETIONS, {"prompt": []}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": ["one", 2]}, "prompt"),
        (Endpoint.EMBEDDINGS, {"input": "one", "dimensions": 0}, "dimensions"),
        (Endpoint.EMBEDDINGS, {}, "input"),
    ],
)
async def test_what_it_cannot_take_is_a_400_with_its_place(
    simulated: Harness, endpoint: Endpoint, body: Json, param: str
) -> None:
    answer = await simulated.answer(body, endpoint=endpoint)
    assert answer.status == 400
    assert msgspec.json.decode(answer.body)["error"]["param"] == param


async def test_a_body_that_is_no_json_is_a_400(simulated: Harness) -> None:
    assert (await simulated.answer({}, raw=b'{"messages": [')).status == 400


async def test_keeps_its_pace() -> None:
    async with harness.simulated(first_token_milliseconds=30, token_milliseconds=10) as paced:
        moments: list[float] = []
        begun = time.perf_counter()
        call = paced.call(_chat(max_tokens=4, stream=True))
        await paced.backend.answer(call, lambda _: moments.append(time.perf_counter() - begun))
        assert 0.03 <= moments[0] < moments[-1]
        assert moments[-1] >= 0.07

        begun = time.perf_counter()
        await paced.answer(_chat(max_tokens=4))
        assert time.perf_counter() - begun >= 0.06


async def test_a_request_can_set_its_own_pace(simulated: Harness) -> None:
    begun = time.perf_counter()
    await simulated.answer(_chat(max_tokens=4, carpool_simulate={"milliseconds_per_token": 10}))
    assert time.perf_counter() - begun >= 0.04


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_passing_failure(simulated: Harness, status: int) -> None:
    with pytest.raises(PassingError) as caught:
        await simulated.answer(
            _chat(carpool_simulate={"status": status, "retry_after_seconds": 0.5})
        )
    assert caught.value.status == status
    assert caught.value.retry_after_seconds == 0.5


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_a_lasting_failure(simulated: Harness, status: int) -> None:
    answer = await simulated.answer(_chat(carpool_simulate={"status": status}))
    assert answer.status == status
    assert msgspec.json.decode(answer.body)["error"]["code"] == "simulated"


async def test_fails_as_often_as_asked_and_then_answers(simulated: Harness) -> None:
    body = _chat(carpool_simulate={"status": 500, "times": 2})
    identity = new_id()
    for _ in range(2):
        with pytest.raises(PassingError):
            await simulated.answer(body, id=identity)
    assert (await simulated.answer(body, id=identity)).status == 200
    with pytest.raises(PassingError):
        await simulated.answer(body, id=new_id())


async def test_breaks_in_the_middle_of_a_stream(simulated: Harness) -> None:
    knobs = {"status": 500, "break_after": 3}
    with pytest.raises(PassingError):
        await simulated.answer(_chat(stream=True, carpool_simulate=knobs))
    assert len(simulated.emitted) == 3


async def test_takes_its_process_with_it() -> None:
    program = """
import asyncio
from tests.conformance import harness
async def main():
    async with harness.simulated() as backend:
        await backend.answer({"messages": [], "carpool_simulate": {"die": True}} | {
            "messages": [{"role": "user", "content": "go"}]})
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == -9


@pytest.mark.timed
async def test_an_answer_costs_little(simulated: Harness) -> None:
    call = simulated.call(_chat(max_tokens=8))
    begun = time.process_time()
    for _ in range(2000):
        await simulated.backend.answer(call, simulated.emitted.append)
    assert (time.process_time() - begun) / 2000 < 60e-6
