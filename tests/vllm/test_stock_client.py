"""An unmodified `openai` client, sync and async, gets from real vLLM what OpenAI would give it.

The same as `tests/integration` holds over the simulated backend, where the engine has a part in it.
"""

import asyncio
import time
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from db.keys import NewKey
from tests.clients import Requests, Stock
from tests.stack import Json, Stack
from tests.vllm.conftest import served

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.usefixtures("quiet")]

MODEL = "tiny"
CHAT: Json = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Who leaves the yard at seven?"}],
    "temperature": 0,
    "max_tokens": 8,
}
ON: Json = {"extra_body": {"ignore_eos": True}}
LONG: Json = {"max_tokens": 1900, "n": 14}
"""Seconds of work, also for a tiny model."""
LATER = {"Prefer": "respond-async"}
MANY = 300
MOST_AT_ONCE = """
select max((
    select count(*) from results as other where other.key_id = mine.key_id
    and other.started_at <= mine.started_at and other.completed_at > mine.started_at
)) from results as mine where mine.key_id = $1
"""


@pytest.fixture(autouse=True)
async def engine(stack: Stack) -> None:
    await served(stack)


async def test_models_are_listed(stock: Stock) -> None:
    assert MODEL in [model.id for model in await stock(lambda client: client.models.list())]


async def test_chat_is_the_same_in_one_piece_and_streamed(stock: Stock) -> None:
    whole = await stock(lambda client: client.chat.completions.create(**CHAT, **ON))
    ChatCompletion.model_validate(whole.model_dump(), strict=True)
    assert whole.model == MODEL
    assert whole.usage.completion_tokens == 8
    *chunks, last = await stock(
        lambda client: client.chat.completions.create(
            **CHAT, **ON, stream=True, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.model for chunk in (*chunks, last)} == {MODEL}


async def test_completions_are_the_same_in_one_piece_and_streamed(stock: Stock) -> None:
    asked: Json = {"model": MODEL, "prompt": "The driver", "max_tokens": 8, "temperature": 0}
    whole = await stock(lambda client: client.completions.create(**asked, **ON))
    Completion.model_validate(whole.model_dump(), strict=True)
    chunks = await stock(lambda client: client.completions.create(**asked, **ON, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    both = await stock(
        lambda client: client.completions.create(**asked | {"prompt": ["One", "Two"]}, **ON)
    )
    assert [choice.index for choice in both.choices] == [0, 1]


async def test_tokens_come_as_they_are_made(stack: Stack, async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        **CHAT | {"max_tokens": 1900, "n": 4, "temperature": 1}, **ON, stream=True
    )
    async with stream:
        await anext(stream)
        identifier = stream.response.headers["x-request-id"].removeprefix("req_")
        assert await stack.value("select state from queue where id = $1::uuid", identifier) == 1
        rest = [chunk async for chunk in stream]
    assert len(rest) > 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_a_real_400(stock: Stock, stream: bool) -> None:
    long = [{"role": "user", "content": "seven " * 3000}]
    with pytest.raises(BadRequestError) as caught:
        await stock(
            lambda client: client.chat.completions.create(
                **CHAT | {"messages": long}, stream=stream
            )
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.response.headers["content-type"] == "application/json"
    with pytest.raises(NotFoundError):
        await stock(
            lambda client: client.get(f"/requests/{caught.value.request_id}", cast_to=object)
        )


async def test_an_endpoint_that_the_model_does_not_have_is_refused(stock: Stock) -> None:
    with pytest.raises(BadRequestError):
        await stock(lambda client: client.embeddings.create(model=MODEL, input="one"))


async def test_a_request_is_left_awaited_listed_and_shown(stock: Stock) -> None:
    raw = await stock(
        lambda client: client.chat.completions.with_raw_response.create(
            **CHAT, **ON, extra_headers=LATER
        )
    )
    assert raw.status_code == 202
    left = raw.http_response.json()
    found = await stock(
        lambda client: client.get(
            f"/requests/{left['id']}", cast_to=object, options={"params": {"wait": 30}}
        )
    )
    assert (found["status"], found["backend"], found["attempts"]) == ("completed", "vllm", 1)
    answer = await stock(lambda client: client.chat.completions.create(**CHAT, **ON))
    assert ChatCompletion.model_validate(found["response"]).choices == answer.choices
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert [item["status"] for item in listed["data"]] == ["completed", "completed"]


async def test_events_tell_of_a_cancel_and_the_engine_lets_go(
    stack: Stack, requests: Requests
) -> None:
    left = await requests.leave(**CHAT | LONG | {"temperature": 1, "ignore_eos": True})
    told = []
    async with requests.http.stream("GET", f"/requests/{left['id']}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                told.append(line.removeprefix("event: request."))
            if told[-1:] == ["in_progress"] and line.startswith("data: "):
                await requests.cancel(left["id"])
    assert told[-2:] == ["in_progress", "cancelled"]
    await stack.nothing_in_flight()


async def test_a_key_is_computed_once(stock: Stock, stack: Stack) -> None:
    def ask(client: Any) -> Any:
        return client.chat.completions.create(
            **CHAT | {"temperature": 1}, **ON, extra_headers={"Idempotency-Key": "once"}
        )

    assert await stock(ask) == await stock(ask)
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert len(listed["data"]) == 1


async def test_a_client_that_timed_out_comes_back_to_the_same_work(
    stack: Stack, async_client: AsyncOpenAI
) -> None:
    """The retry of a stock client attaches to what the engine computes already."""
    hasty = async_client.with_options(timeout=2.0, max_retries=60)
    answer = await hasty.chat.completions.create(**CHAT | LONG | {"temperature": 1}, **ON)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 14 * 1900
    listed: Any = await async_client.get("/requests", cast_to=object)
    assert [item["attempts"] for item in listed["data"]] == [1]
    came_back = "select count(*) from reattachments where request_id = $1::uuid"
    assert await stack.value(came_back, listed["data"][0]["id"].removeprefix("req_")) >= 1


async def test_many_at_once_run_in_one_batch(
    stack: Stack, async_client: AsyncOpenAI, team: NewKey
) -> None:
    """The engine holds many at the same time, and all take far less than one after the other."""

    async def ask(number: int) -> int:
        answer = await async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Seat {number}"}],
            max_tokens=64,
            **ON,
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    began = time.monotonic()
    await ask(-1)
    alone = time.monotonic() - began
    began = time.monotonic()
    assert await asyncio.gather(*map(ask, range(MANY))) == [64] * MANY
    together = time.monotonic() - began
    assert await stack.value(MOST_AT_ONCE, team.id) >= 100
    assert together < alone * MANY / 5, (alone, together)
