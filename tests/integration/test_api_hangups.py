"""A client that hangs up, at whatever moment, leaves nothing running and breaks nothing."""

import asyncio
import signal
import socket
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from carpool.ids import parse_public_id
from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests, chat_head
from tests.stack import Stack, eventually

ENDLESS = CHAT | {
    "stream": True,
    "max_tokens": 8000,
    "carpool_simulate": {"milliseconds_per_token": 50},
}
CHANNEL = "select channel::text from queue where id = $1"


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_up_while_it_waits_begins_the_grace(
    stack: Stack, requests: Requests, stream: bool
) -> None:
    asking = asyncio.create_task(
        requests.http.post("/chat/completions", json=CHAT | FOREVER | {"stream": stream})
    )
    [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    grace = "select extract(epoch from abandon_at - now()) from queue where id = $1"
    left = await eventually(
        lambda: stack.value(grace, parse_public_id("req_", identifier)), seconds=5
    )
    assert 100 < left < 131
    assert (await requests.get(identifier))["status"] == "in_progress"
    await requests.cancel(identifier)


@pytest.mark.usefixtures("quiet")
async def test_a_hang_up_in_a_stream_ends_the_request_at_once(
    stack: Stack, requests: Requests
) -> None:
    """A client does not come back for a stream that it has begun to read."""
    identifier = await _read_and_hang_up(requests)
    found = await requests.until(identifier, "cancelled")
    assert found["error"]["code"] == "request_cancelled"
    await stack.nothing_in_flight()


@pytest.mark.usefixtures("quiet")
async def test_a_hang_up_half_way_through_the_body_stores_nothing(
    stack: Stack, team: NewKey, requests: Requests
) -> None:
    content = msgspec.json.encode(CHAT)
    async with stack.connection() as (_, writer):
        writer.write(chat_head(team.secret, f"content-length: {len(content)}") + content[:40])
        await writer.drain()
    async with stack.connection() as (_, writer):
        writer.write(
            chat_head(team.secret, "transfer-encoding: chunked") + b"28\r\n" + content[:40]
        )
        await writer.drain()
    assert (await requests.http.get("/models")).status_code == 200
    assert await requests.ids() == []


@pytest.mark.usefixtures("quiet")
async def test_a_request_behind_a_hang_up_on_the_same_machine_is_answered(
    stack: Stack, team: NewKey, requests: Requests
) -> None:
    """A hundred clients that are gone before they read do not hinder those that stay."""
    content = msgspec.json.encode(CHAT)
    for _ in range(100):
        async with stack.connection() as (_, writer):
            writer.write(chat_head(team.secret, f"content-length: {len(content)}") + content)
            await writer.drain()
    answer = await requests.http.post("/chat/completions", json=CHAT)
    assert answer.status_code == 200


@pytest.mark.usefixtures("quiet")
async def test_a_watcher_that_hangs_up_changes_nothing(requests: Requests) -> None:
    left = await requests.leave(**FOREVER)
    async with requests.http.stream("GET", f"/requests/{left['id']}/events") as answer:
        await anext(answer.aiter_lines())
    brief = httpx.Timeout(30, read=0.1)
    with pytest.raises(httpx.ReadTimeout):
        await requests.http.get(f"/requests/{left['id']}?wait=60", timeout=brief)
    await requests.until(left["id"], "in_progress")
    await requests.cancel(left["id"])


async def test_a_stream_given_up_before_a_restart_is_not_found_after_it(
    hasty_stack: Stack,
) -> None:
    """Another client's retry of the same words is work of its own."""
    key = await hasty_stack.new_key("given-up")
    async with hasty_stack.http(key.secret) as http:
        requests = Requests(http)
        identifier = await _read_and_hang_up(requests)
        await requests.until(identifier, "cancelled")
        content = await _body(hasty_stack, identifier)
    await hasty_stack.replace("api", signal.SIGTERM)
    async with hasty_stack.http(key.secret) as http:
        async with http.stream(
            "POST",
            "/chat/completions",
            content=content,
            headers={"x-stainless-retry-count": "1"},
        ) as answer:
            again = answer.headers["x-request-id"]
            assert answer.status_code == 200
        assert again != identifier
        await Requests(http).cancel(again)


async def test_a_request_that_was_left_outlives_the_api_that_was_asked_for_its_end(
    hasty_stack: Stack,
) -> None:
    """Nobody has to wait for it, so nobody who stops waiting ends it."""
    key = await hasty_stack.new_key("left")
    async with hasty_stack.http(key.secret) as http:
        left = await Requests(http).leave(**FOREVER)
        identifier = parse_public_id("req_", left["id"])
        polling = asyncio.create_task(Requests(http).get(left["id"], wait=60))
        channel = await eventually(lambda: hasty_stack.value(CHANNEL, identifier))
        await hasty_stack.replace("api", signal.SIGKILL)
        await asyncio.gather(polling, return_exceptions=True)
    gone = """
    select true
    where not exists (select from processes where id = $1::uuid and settled_at is null)
    """
    await eventually(lambda: hasty_stack.value(gone, channel))
    async with hasty_stack.http(key.secret) as http:
        due = "select abandon_at is null from queue where id = $1"
        assert await hasty_stack.value(due, identifier)
        await Requests(http).cancel(left["id"])


async def _read_and_hang_up(requests: Requests) -> str:
    """Read the first chunk of an endless stream, and hang up; the id."""
    async with requests.http.stream("POST", "/chat/completions", json=ENDLESS) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                break
    identifier: str = answer.headers["x-request-id"]
    return identifier


async def _body(stack: Stack, identifier: str) -> bytes:
    body = "select body from requests where id = $1"
    return bytes(await stack.value(body, parse_public_id("req_", identifier)))


async def test_a_client_that_takes_nothing_of_its_stream_does_not_hold_it(
    hasty_stack: Stack,
) -> None:
    team = await hasty_stack.new_key("takes nothing")
    flood = CHAT | {
        "stream": True,
        "n": 24,
        "max_tokens": 8000,
        "carpool_simulate": {"milliseconds_per_token": 0.2},
    }
    content = msgspec.json.encode(flood)
    address = urlsplit(hasty_stack.base_url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.hostname, address.port))
        client.sendall(chat_head(team.secret, f"content-length: {len(content)}") + content)
        async with hasty_stack.http(team.secret) as http:
            requests = Requests(http)
            [identifier] = await eventually(requests.ids)
            assert (await requests.until(identifier, "cancelled"))["response"] is None


async def test_a_body_that_stalls_is_refused(hasty_stack: Stack) -> None:
    team = await hasty_stack.new_key("stalls")
    async with hasty_stack.connection() as (reader, writer):
        writer.write(chat_head(team.secret, "content-length: 1000") + b'{"model":')
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"body_stalled" in await reader.readuntil(b"}")
