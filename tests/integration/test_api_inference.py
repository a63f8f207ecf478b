"""An unmodified `openai` client, sync and async, gets from each endpoint what OpenAI gives it."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from carpool.notices import MAX_INLINE_BYTES
from db.keys import NewKey
from tests.clients import Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

MODEL = "simulated"
MESSAGES = [{"role": "user", "content": "Who leaves the yard at seven?"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
SAYS = "x-stainless-read-timeout"
READ_SECONDS = 2.0
TRIES = 10
UNASKED_SECONDS = 10.0
"""Before a first comment, for who says nothing; then 15 before each."""
FOREVER = {"carpool_simulate": {"milliseconds_per_token": 60_000}}


async def test_chat(stock: Stock) -> None:
    answer = await stock(lambda client: client.chat.completions.create(**CHAT))
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.model == MODEL
    assert [choice.finish_reason for choice in answer.choices] == ["stop"]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith("simulated:")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_chat_cut_short_with_several_choices(stock: Stock) -> None:
    answer = await stock(
        lambda client: client.chat.completions.create(**CHAT, n=3, max_completion_tokens=4)
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage.completion_tokens == 12


async def test_what_carpool_does_not_know_is_accepted(stock: Stock) -> None:
    answer = await stock(
        lambda client: client.chat.completions.create(
            **CHAT,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            tool_choice="auto",
            response_format={"type": "json_object"},
            reasoning_effort="low",
            verbosity="low",
            metadata={"trip": "7"},
            logit_bias={"50256": -100},
            stop=["one", "two"],
            seed=7,
            extra_body={"of_next_year": {"deep": [1, 2]}},
        )
    )
    assert answer.choices[0].message.content


async def test_a_chat_stream_is_the_answer_in_chunks(stock: Stock) -> None:
    whole = await stock(lambda client: client.chat.completions.create(**CHAT))
    chunks = await stock(lambda client: client.chat.completions.create(**CHAT, stream=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    assert len(chunks) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert _text(chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [
        *[None] * (len(chunks) - 1),
        "stop",
    ]
    assert {chunk.usage for chunk in chunks} == {None}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_tells_its_usage_in_a_last_chunk_if_asked(stock: Stock) -> None:
    *chunks, last = await stock(
        lambda client: client.chat.completions.create(
            **CHAT, n=2, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.usage for chunk in chunks} == {None}
    assert last.choices == []
    assert last.usage.completion_tokens == 6
    ends = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason == "length"]
    assert sorted(ends) == [0, 1]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
async def test_a_stream_is_framed_as_the_decoder_needs_it(
    stack: Stack, team: NewKey, path: str
) -> None:
    """Only data lines and comments, chunked, with DONE at the end (COMPAT section 3, SSE)."""
    async with stack.http(team.secret) as http:
        answer = await http.post(path, json={**CHAT, "prompt": "Who?", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-request-id"].startswith("req_")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith(("data: {", ": ")) for frame in frames[:-2])
    assert all("\n" not in frame for frame in frames)


async def test_chunks_come_as_they_are_made(stack: Stack, async_client: AsyncOpenAI) -> None:
    """The first chunk is read while the engine still holds the request, for minutes to come."""
    body: dict[str, Any] = {"carpool_simulate": {"milliseconds_per_token": 100}}
    stream = await async_client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Slowly"}],
        max_tokens=8000,
        stream=True,
        extra_body=body,
    )
    async with stream:
        first = await anext(stream)
        assert first.choices[0].delta.content
        identifier = stream.response.headers["x-request-id"].removeprefix("req_")
        assert await stack.value("select state from queue where id = $1::uuid", identifier) == 1
        assert (await anext(stream)).choices[0].delta.content


async def test_completions(stock: Stock) -> None:
    answer = await stock(lambda client: client.completions.create(model=MODEL, prompt="The driver"))
    Completion.model_validate(answer.model_dump(), strict=True)
    assert answer.object == "text_completion"
    chunks = await stock(
        lambda client: client.completions.create(model=MODEL, prompt="The driver", stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("one", 1), (["one", "two"], 2), ([5, 6, 7], 1), ([[5, 6], [7, 8], [9]], 3)],
)
async def test_completions_take_each_form_of_prompt(
    stock: Stock, prompt: Any, choices: int
) -> None:
    answer = await stock(
        lambda client: client.completions.create(model=MODEL, prompt=prompt, max_tokens=2)
    )
    assert [choice.index for choice in answer.choices] == list(range(choices))
    assert answer.usage.completion_tokens == 2 * choices


async def test_embeddings_are_the_same_in_both_formats(stock: Stock) -> None:
    """The client asks for base64 where its caller asks for nothing."""
    packed = await stock(
        lambda client: client.embeddings.create(model=MODEL, input=["one", "two"], dimensions=6)
    )
    plain = await stock(
        lambda client: client.embeddings.create(
            model=MODEL, input=["one", "two"], dimensions=6, encoding_format="float"
        )
    )
    CreateEmbeddingResponse.model_validate(plain.model_dump())
    assert [item.index for item in plain.data] == [0, 1]
    for mine, other in zip(packed.data, plain.data, strict=True):
        assert mine.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert len(other.embedding) == 6
    assert plain.data[0].embedding != plain.data[1].embedding
    assert plain.usage.prompt_tokens == 2


@pytest.mark.parametrize("given", ["one", [5, 6], [[5, 6], [7]]])
async def test_embeddings_take_each_form_of_input(stock: Stock, given: Any) -> None:
    answer = await stock(lambda client: client.embeddings.create(model=MODEL, input=given))
    assert len(answer.data) == (2 if given == [[5, 6], [7]] else 1)


async def test_the_headers_of_an_answer(stock: Stock, stack: Stack) -> None:
    raw = await stock(lambda client: client.chat.completions.with_raw_response.create(**CHAT))
    identifier = raw.headers["x-request-id"]
    assert identifier == raw.request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.headers["content-type"] == "application/json"
    found = await stock(lambda client: client.get(f"/requests/{identifier}", cast_to=object))
    assert found["response"]["id"] == raw.parse().id


async def test_many_at_once_are_each_answered_their_own(async_client: AsyncOpenAI) -> None:
    client = async_client.with_options(timeout=60)  # else it takes 5 seconds at most to connect

    async def ask(number: int) -> str | None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"Seat {number}"}]
        )
        return answer.choices[0].message.content

    once = await asyncio.gather(*(ask(number) for number in range(100)))
    again = await asyncio.gather(*(ask(number) for number in range(100)))
    assert once == again
    assert len(set(once)) == 100


async def test_an_answer_too_large_for_a_notice_comes_whole(stock: Stock) -> None:
    """It is read from Postgres; so are the last chunks of a stream that come all at once."""
    answer = await stock(
        lambda client: client.chat.completions.create(**CHAT, n=40, max_tokens=2000)
    )
    texts = [choice.message.content for choice in answer.choices]
    assert sum(map(len, texts)) > MAX_INLINE_BYTES
    chunks = await stock(
        lambda client: client.chat.completions.create(**CHAT, n=2, max_tokens=2000, stream=True)
    )
    streamed = [
        "".join(c.delta.content or "" for k in chunks for c in k.choices if c.index == index)
        for index in (0, 1)
    ]
    assert streamed == texts[:2]


async def test_a_queued_stream_is_kept_alive_by_comments(hasty_stack: Stack) -> None:
    async with (
        hasty_stack.http() as http,
        http.stream("POST", "/chat/completions", json={**CHAT, **FOREVER, "stream": True}) as raw,
    ):
        assert raw.status_code == 200
        lines = raw.aiter_lines()
        seen = [line async for line in _take(lines, 6)]
        identifier = raw.headers["x-request-id"]
        await http.delete(f"/requests/{identifier}")
        rest = [line async for line in lines]
    assert seen == [": queued", ""] * 3
    assert '"request_cancelled"' in "".join(rest)
    assert "[DONE]" not in "".join(rest)


async def test_a_stream_outlives_a_read_timeout_that_is_shorter_than_its_wait(
    stack: Stack, async_client: AsyncOpenAI
) -> None:
    """Comments must come before the client, which says how long it reads, gives up.

    The machine may hold any of them up, but lets none come sooner: the quickest tells.
    """
    patient = async_client.with_options(timeout=77)
    listed = await patient.models.with_raw_response.list()
    assert float(listed.http_request.headers[SAYS]) == 77
    async with stack.http(async_client.api_key) as http:
        for _ in range(TRIES):
            if await _first_comment(http) < READ_SECONDS:
                break
        else:
            pytest.fail("no comment came in time")


async def test_the_process_tells_of_itself(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.root_url, timeout=30) as http:
        health = await http.get("/healthz")
        assert health.json() == {"status": "ok"}
        assert health.headers["x-request-id"].startswith("req_")
        ready = await http.get("/readyz")
        assert ready.json() == {"status": "ok", "postgres": "ok", "redis": "ok"}

        async def counted() -> bool:
            figures = (await http.get("/metrics")).text
            return (
                'carpool_http_requests_total{method="GET",path="/readyz",status="200"}' in figures
            )

        await eventually(counted)


async def _first_comment(http: httpx.AsyncClient) -> float:
    """After how many seconds a stream that waits has its first comment; the next one comes, too."""
    began = time.monotonic()
    async with http.stream(
        "POST",
        "/chat/completions",
        json=CHAT | FOREVER | {"stream": True},
        headers={SAYS: str(READ_SECONDS)},
    ) as answer:
        lines = answer.aiter_lines()
        assert [line async for line in _take(lines, 2)] == [": queued", ""]
        took = time.monotonic() - began
        assert [line async for line in _take(lines, 2)] == [": queued", ""]
        assert time.monotonic() - began < UNASKED_SECONDS
        await http.delete(f"/requests/{answer.headers['x-request-id']}")
    return took


async def _take(lines: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(lines)


def _text(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
