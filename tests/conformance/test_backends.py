"""Every backend keeps the same promises, checked with the types of the `openai` package."""

import asyncio
from typing import Any

import msgspec
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from carpool.states import Endpoint
from tests.conformance.harness import MODEL, VLLM_WARNINGS, Harness, Json, unstarted
from tests.conformance.patience import until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    *VLLM_WARNINGS,
]

MESSAGES = [{"role": "user", "content": "Who leaves the yard at seven?"}]
LONG = [{"role": "user", "content": "word " * 9000}]
ANSWER_TOKENS = 6


def _chat(**changes: Any) -> Json:
    return {"messages": MESSAGES, "max_tokens": ANSWER_TOKENS, **changes}


async def test_knows_its_models_its_capacity_and_its_health(backend: Harness) -> None:
    assert backend.upstream in await backend.backend.models()
    assert backend.backend.capacity > 1
    await backend.backend.health()


async def test_lets_start_what_is_wanted_at_most(backend: Harness) -> None:
    """Also where nothing of the shared budget can be known, and without raising.

    A model of which nothing may start is shut for a while, so that nobody asks without end.
    """
    for wanted in ({backend.upstream: 1}, {backend.upstream: 7, "another": 2}):
        granted = await backend.backend.admit(wanted)
        assert granted.keys() == wanted.keys()
        for upstream, number in granted.items():
            assert 0 <= number <= wanted[upstream]
            assert number or backend.backend.shut()[upstream] > 0
        await backend.backend.unused(granted)


async def test_chat_is_openais_completion(backend: Harness) -> None:
    found = await backend.decoded(_chat())
    completion = ChatCompletion.model_validate(found, strict=True)
    assert completion.model == MODEL
    assert completion.choices[0].finish_reason in ("length", "stop")
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content is not None
    assert completion.choices[0].message.tool_calls is None
    assert completion.usage is not None
    assert completion.usage.total_tokens == (
        completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_no_null_that_openai_does_not_have(backend: Harness) -> None:
    found = await backend.decoded(_chat())
    nulls = {"refusal", "logprobs", "service_tier", "system_fingerprint", "content"}
    for part in (found, found["choices"][0], found["choices"][0]["message"], found["usage"]):
        assert {name for name, value in part.items() if value is None} <= nulls


async def test_usage_is_counted_as_the_answer_says(backend: Harness) -> None:
    answer = await backend.answer(_chat())
    usage = msgspec.json.decode(answer.body)["usage"]
    assert answer.usage.prompt_tokens == usage["prompt_tokens"] > 0
    assert answer.usage.completion_tokens == usage["completion_tokens"] > 0
    assert answer.usage.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"]


async def test_n_choices(backend: Harness) -> None:
    found = await backend.decoded(_chat(n=3))
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]


async def test_max_completion_tokens_wins(backend: Harness) -> None:
    answer = await backend.answer(_chat(max_tokens=6, max_completion_tokens=2))
    assert answer.usage.completion_tokens <= 2


async def test_a_stream_is_the_answer_in_pieces(backend: Harness) -> None:
    body = _chat(temperature=0, seed=1)
    whole = await backend.decoded(body)
    answer = await backend.answer({**body, "stream": True})
    assert (answer.status, answer.body) == (200, b"")
    chunks = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in backend.chunks()]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole["choices"][0]["finish_reason"]
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_tells_its_usage_only_if_asked(backend: Harness) -> None:
    quiet = await backend.answer(_chat(stream=True))
    assert all("usage" not in chunk for chunk in backend.chunks())
    assert all(chunk["choices"] for chunk in backend.chunks())

    told = await backend.answer(_chat(stream=True, stream_options={"include_usage": True}))
    *earlier, last = backend.chunks()
    assert all(chunk["usage"] is None for chunk in earlier)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == told.usage.prompt_tokens == quiet.usage.prompt_tokens
    assert last["usage"]["completion_tokens"] == told.usage.completion_tokens > 0


async def test_a_stream_of_n_choices_ends_each(backend: Harness) -> None:
    await backend.answer(_chat(stream=True, n=2))
    reasons = [
        (choice["index"], choice["finish_reason"])
        for chunk in backend.chunks()
        for choice in chunk["choices"]
        if choice["finish_reason"] is not None
    ]
    assert sorted(index for index, _ in reasons) == [0, 1]


async def test_completion_is_openais_completion(backend: Harness) -> None:
    body = {"prompt": "The driver", "max_tokens": ANSWER_TOKENS, "temperature": 0}
    found = await backend.decoded(body, endpoint=Endpoint.COMPLETIONS)
    completion = Completion.model_validate(found, strict=True)
    assert (completion.model, completion.object) == (MODEL, "text_completion")
    answer = await backend.answer({**body, "stream": True}, endpoint=Endpoint.COMPLETIONS)
    pieces = [chunk["choices"][0] for chunk in backend.chunks()]
    assert "".join(piece["text"] for piece in pieces) == completion.choices[0].text
    assert pieces[-1]["finish_reason"] == completion.choices[0].finish_reason
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("prompt", [["one", "two"], [5, 6, 7], [[5, 6], [7, 8]]])
async def test_completion_takes_every_form_of_prompt(backend: Harness, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 2}
    answer = await backend.answer(body, endpoint=Endpoint.COMPLETIONS)
    assert answer.status == 200
    assert answer.usage.completion_tokens > 0


async def test_embeddings_or_a_clean_refusal(backend: Harness) -> None:
    answer = await backend.answer({"input": ["one", "two"]}, endpoint=Endpoint.EMBEDDINGS)
    if backend.embeds:
        found = CreateEmbeddingResponse.model_validate(msgspec.json.decode(answer.body))
        assert [item.index for item in found.data] == [0, 1]
        assert sum(value * value for value in found.data[0].embedding) == pytest.approx(1)
        assert found.model == MODEL
        assert answer.usage.prompt_tokens > 0
    else:
        assert answer.status == 400
        assert _error(answer.body)["code"] == "unsupported_endpoint"


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_an_answer_frees_its_place(backend: Harness, stream: bool) -> None:
    call = backend.slow_call({"messages": MESSAGES, "stream": stream})
    task = asyncio.create_task(backend.backend.answer(call, lambda _: None))
    await until(lambda: backend.running() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: backend.running() == 0)
    assert (await backend.answer(_chat())).status == 200


async def test_a_lasting_error_is_openais(backend: Harness) -> None:
    answer = await backend.answer({"max_tokens": 2})
    assert 400 <= answer.status < 500
    error = _error(answer.body)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "messages"
    assert "messages" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_too_long_is_a_400_before_any_chunk(backend: Harness, stream: bool) -> None:
    answer = await backend.answer({"messages": LONG, "max_tokens": 2, "stream": stream})
    assert answer.status == 400
    error = _error(answer.body)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert backend.emitted == []


async def test_many_at_once(backend: Harness) -> None:
    answers = await asyncio.gather(
        *(backend.backend.answer(backend.call(_chat()), lambda _: None) for _ in range(40))
    )
    assert {answer.status for answer in answers} == {200}
    await until(lambda: backend.running() == 0)


@pytest.mark.parametrize("kind", ["simulated", "openai", "vllm"])
async def test_close_is_safe_before_start_and_twice(kind: str) -> None:
    backend = unstarted(kind)
    await backend.close()
    await backend.close()
    assert backend.name == kind


def _error(body: bytes) -> Json:
    error: Json = msgspec.json.decode(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
