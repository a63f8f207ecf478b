"""A body over the limit is refused before it is read whole, and the client is told."""

import asyncio
from contextlib import suppress

import msgspec
import psutil
import pytest
from openai import APIStatusError, AuthenticationError

from db.keys import NewKey
from tests.clients import CHAT, Requests, Stock, chat_head
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("quiet")

LIMIT_BYTES = 10_000_000
HUGE_BYTES = 50_000_000
IN_FLIGHT_BYTES = 12_000_000
"""What the buffers of both ends of a local connection may hold."""
GROWTH_BYTES = 40_000_000
"""Above what a body up to the limit may cost for a moment, far below several huge ones."""
PART = b"x" * 100_000
WAIT_SECONDS = 30.0


async def test_a_declared_length_is_refused_unread(stack: Stack, team: NewKey) -> None:
    async with stack.connection() as (reader, writer):
        writer.write(chat_head(team.secret, f"content-length: {HUGE_BYTES}") + PART)
        await _refused(reader)


async def test_an_undeclared_length_is_refused_at_the_limit(stack: Stack, team: NewKey) -> None:
    async with stack.connection() as (reader, writer):
        writer.write(chat_head(team.secret, "transfer-encoding: chunked"))
        refused = asyncio.create_task(_refused(reader))
        sent = 0
        with suppress(ConnectionError):  # which it may break, once it has answered
            while sent < HUGE_BYTES and not refused.done():
                writer.write(b"%x\r\n%b\r\n" % (len(PART), PART))
                await writer.drain()
                await asyncio.sleep(0)  # lets the answer be read
                sent += len(PART)
        await refused
    assert LIMIT_BYTES <= sent <= LIMIT_BYTES + IN_FLIGHT_BYTES


async def test_memory_stays_flat(stack: Stack, team: NewKey) -> None:
    api = psutil.Process(stack.pid("api"))
    await test_a_declared_length_is_refused_unread(stack, team)
    before = api.memory_info().rss
    for _ in range(5):
        await test_a_declared_length_is_refused_unread(stack, team)
        await test_an_undeclared_length_is_refused_at_the_limit(stack, team)
    assert api.memory_info().rss - before < GROWTH_BYTES


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, HUGE_BYTES])
async def test_the_stock_client_is_told_once(stock: Stock, size: int) -> None:
    with pytest.raises(APIStatusError) as caught:
        await stock(
            lambda client: client.with_options(max_retries=2).chat.completions.create(
                **CHAT | {"messages": [{"role": "user", "content": "x" * size}]}
            )
        )
    error = caught.value
    assert (error.status_code, error.code) == (413, "request_too_large")
    assert error.request_id
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert listed["data"] == []


async def test_a_body_at_the_limit_is_taken(requests: Requests) -> None:
    empty = msgspec.json.encode(CHAT | {"of_next_year": ""})
    content = empty[:-2] + b"x" * (LIMIT_BYTES - len(empty)) + empty[-2:]
    answer = await requests.http.post("/chat/completions", content=content)
    assert answer.status_code == 200
    refused = await requests.http.post("/chat/completions", content=content + b" ")
    assert refused.status_code == 413


async def test_who_has_no_key_is_told_so_whatever_it_sends(stack: Stack) -> None:
    async with stack.async_client(api_key="sk-wrong", max_retries=2) as client:
        with pytest.raises(AuthenticationError):
            await client.chat.completions.create(
                **CHAT | {"messages": [{"role": "user", "content": "x" * HUGE_BYTES}]}
            )


async def test_a_client_that_asks_first_sends_nothing(stack: Stack, team: NewKey) -> None:
    """``Expect: 100-continue``: the refusal comes in place of the go-ahead."""
    async with stack.connection() as (reader, writer):
        writer.write(
            chat_head(team.secret, f"content-length: {HUGE_BYTES}", "expect: 100-continue")
        )
        await _refused(reader)
        assert await asyncio.wait_for(reader.read(), WAIT_SECONDS) == b""


async def _refused(reader: asyncio.StreamReader) -> None:
    """Read the answer: a refusal, after which the connection is of no more use."""
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), WAIT_SECONDS)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head
    assert b"x-request-id: req_" in head
    assert b"content-length: %d\r" % len(body) in head
    error = msgspec.json.decode(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_too_large")
