"""A client that comes back gets the answer that it missed, and the engine runs once.

Rules 2 to 4 of 'Duplicate work' in COMPAT section 3.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import httpx2
import msgspec
import pytest
from openai import InternalServerError, Omit

from carpool.ids import parse_public_id
from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests, Stock
from tests.stack import MODEL, Json, Stack, eventually

SIDING = "siding"
"""A model whose requests wait until its route is opened."""
RETRIES = 10
"""Enough for a loaded machine that keeps some of them waiting too long."""
MANY_SECONDS = 100.0
"""A hundred retries at once try each of a hundred requests, which a loaded machine does slowly."""
UNANNOUNCED = {"x-stainless-read-timeout": Omit()}
"""A client that does not say how long it waits."""
ENDED_CONNECTIONS = """
select count(*) from disconnects d where d.connection = $1
    or d.connection in (select successor from reattachments where request_id = $1)
"""
ENDED_OF_KEY = """
with mine as (select id from requests where key_id = $1)
select count(*) from disconnects d
where
    d.connection in (select id from mine)
    or d.connection in (select successor from reattachments join mine on id = request_id)
"""
REATTACHED = "select count(*) from reattachments where request_id = $1"
ATTENDED = """
select true from queue where id = $1 and channel is not null and abandon_at is null
"""
ALL_ATTENDED = """
select count(*) from queue
where id = any($1::uuid[]) and channel is not null and abandon_at is null
"""
ALL_ENDED = "select count(*) from disconnects where connection = any($1::uuid[])"


@pytest.fixture
async def hasty(hasty_stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Requests]:
    """`/v1/requests` of a team of its own, on the stack with little patience."""
    key = await hasty_stack.new_key(request.node.nodeid)
    async with hasty_stack.http(key.secret) as http:
        yield Requests(http)


@pytest.fixture(params=["sync", "async"])
async def returning(
    stack: Stack, team: NewKey, request: pytest.FixtureRequest
) -> AsyncIterator[Stock]:
    """A stock client of each kind, which asks for the siding.

    Its retry comes when the end of its last connection is noted; the first one opens the route.
    """
    await stack.route(SIDING, "nowhere")

    async def ready(asked: httpx2.Request) -> None:
        retries = int(asked.headers["x-stainless-retry-count"])

        async def noted() -> bool:
            return bool(await stack.value(ENDED_OF_KEY, team.id) >= retries)

        await eventually(noted)
        if retries == 1:
            await stack.route(SIDING, MODEL)

    options: Json = {"api_key": team.secret, "max_retries": RETRIES}
    if request.param == "async":
        async with (
            httpx2.AsyncClient(event_hooks={"request": [ready]}) as http,
            stack.async_client(**options, http_client=http) as client,
        ):
            yield Stock(client)
    else:
        hook = {"request": [lambda asked: asyncio.run(ready(asked))]}
        with (
            httpx2.Client(event_hooks=hook) as door,
            stack.client(**options, http_client=door) as blocking,
        ):
            yield Stock(blocking)


async def test_a_client_that_timed_out_is_answered_by_its_own_retry(returning: Stock) -> None:
    body = CHAT | {"model": SIDING}
    answer = await returning(
        lambda client: client.with_options(timeout=2).chat.completions.create(
            **body, extra_headers=UNANNOUNCED
        )
    )
    assert answer.choices[0].message.content
    listed = await returning(lambda client: client.get("/requests", cast_to=object))
    assert [found["attempts"] for found in listed["data"]] == [1]


async def test_a_client_that_says_how_long_it_waits_is_asked_to_come_back(
    returning: Stock,
) -> None:
    """Shortly before its read timeout a 503, and to its retry the answer of the one run."""
    body = CHAT | {"model": SIDING}
    answer = await returning(
        lambda client: client.with_options(timeout=2).chat.completions.create(**body)
    )
    assert answer.choices[0].message.content
    listed = await returning(lambda client: client.get("/requests", cast_to=object))
    assert [found["attempts"] for found in listed["data"]] == [1]


@pytest.mark.timed
async def test_the_503_before_a_read_timeout(stock: Stock) -> None:
    with pytest.raises(InternalServerError) as caught:
        await stock(
            lambda client: client.with_options(timeout=5).chat.completions.create(
                **CHAT, extra_body=FOREVER
            )
        )
    error = caught.value
    assert (error.status_code, error.code) == (503, "still_waiting")
    assert 0 < float(error.response.headers["retry-after"]) <= 120
    assert error.response.headers["x-should-retry"] == "true"
    await stock(lambda client: client.delete(f"/requests/{error.request_id}", cast_to=object))


@pytest.mark.parametrize("timeout", ["nan", "soon", "-1", "0", "inf", "", "1e999"])
async def test_a_read_timeout_of_nonsense_does_no_harm(requests: Requests, timeout: str) -> None:
    headers = {"x-stainless-read-timeout": timeout}
    answer = await requests.http.post("/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code in (200, 503)


@pytest.mark.parametrize("count", ["-1", "soon", "1.5", "²", "9" * 5000, ""], ids=range(6))
async def test_a_retry_count_of_nonsense_is_none(requests: Requests, count: str) -> None:
    answer = await _send(requests, CHAT, count.encode("latin-1"))
    assert answer.status_code == 200


async def test_many_retries_in_a_row_hold_on_to_one_request(
    stack: Stack, requests: Requests
) -> None:
    identifier = await _hang_up(stack, requests, FOREVER, retry=0)
    for retry in range(1, 5):
        await _hang_up(stack, requests, FOREVER, retry=retry, identifier=identifier)
    last = asyncio.create_task(_send(requests, CHAT | FOREVER, 5))
    await _reattached(stack, identifier, 5)
    await eventually(lambda: stack.value(ATTENDED, _uuid(identifier)))
    await requests.cancel(identifier)
    assert (await last).headers["x-request-id"] == identifier
    assert await requests.ids() == [identifier]


@pytest.mark.parametrize("clients", [2, 100])
async def test_identical_requests_are_taken_over_one_to_one(
    stack: Stack, requests: Requests, clients: int
) -> None:
    """Identical samples in parallel, all hung up, all retried at once."""
    body = CHAT | FOREVER
    asking = [
        asyncio.create_task(_send(requests, body, 0, timeout=MANY_SECONDS)) for _ in range(clients)
    ]

    async def all_run() -> list[str] | None:
        ids = await requests.ids(status="in_progress", limit=100)
        return ids if len(ids) == clients else None

    ids = await eventually(all_run, MANY_SECONDS)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    connections = [_uuid(identifier) for identifier in ids]

    async def all_ended() -> bool:
        return bool(await stack.value(ALL_ENDED, connections) == clients)

    await eventually(all_ended, MANY_SECONDS)
    retries = [
        asyncio.create_task(_send(requests, body, 1, timeout=MANY_SECONDS)) for _ in range(clients)
    ]

    async def all_wait() -> bool:
        listed = [_uuid(identifier) for identifier in await requests.ids(limit=100)]
        return bool(await stack.value(ALL_ATTENDED, listed) == clients)

    await eventually(all_wait, MANY_SECONDS)
    for identifier in await requests.ids(limit=100):
        await requests.cancel(identifier)
    answers = await asyncio.gather(*retries)
    assert {answer.headers["x-request-id"] for answer in answers} == set(ids)
    assert set(await requests.ids(limit=100)) == set(ids)


async def test_a_first_try_is_never_taken_for_a_retry(stack: Stack, requests: Requests) -> None:
    identifier = await _hang_up(stack, requests, FOREVER, retry=0)
    asking = [asyncio.create_task(_send(requests, CHAT | FOREVER, 0)) for _ in range(5)]

    async def six() -> list[str] | None:
        ids = await requests.ids(status="in_progress")
        return ids if len(ids) == 6 else None

    ids = await eventually(six)
    for other in ids:
        await requests.cancel(other)
    answers = await asyncio.gather(*asking)
    assert {answer.headers["x-request-id"] for answer in answers} == set(ids) - {identifier}


async def test_a_retry_finds_an_answer_that_nobody_waited_for(
    stack: Stack, requests: Requests
) -> None:
    await stack.route(SIDING, "nowhere")
    body = {"model": SIDING}
    identifier = await _hang_up(stack, requests, body, retry=0, status="queued")
    await stack.route(SIDING, MODEL)
    await requests.until(identifier, "completed")
    answer = await _send(requests, CHAT | body, 1)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, identifier)
    assert await requests.ids() == [identifier]


async def test_what_was_delivered_is_computed_anew(stack: Stack, requests: Requests) -> None:
    first = await _send(requests, CHAT, 0)
    identifier = first.headers["x-request-id"]
    delivered = "select true from deliveries where id = $1"
    await eventually(lambda: stack.value(delivered, _uuid(identifier)))
    again = await _send(requests, CHAT, 1)
    assert again.headers["x-request-id"] != identifier
    assert len(await requests.ids()) == 2


async def test_a_request_that_has_its_client_is_not_taken_from_it(
    stack: Stack, requests: Requests
) -> None:
    first = asyncio.create_task(_send(requests, CHAT | FOREVER, 0))
    [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
    second = asyncio.create_task(_send(requests, CHAT | FOREVER, 1))

    async def two() -> list[str] | None:
        ids = await requests.ids(status="in_progress")
        return ids if len(ids) == 2 else None

    for found in await eventually(two):
        await requests.cancel(found)
    answers = await asyncio.gather(first, second)
    assert answers[0].headers["x-request-id"] == identifier
    assert answers[1].headers["x-request-id"] != identifier
    assert await stack.value(REATTACHED, _uuid(identifier)) == 0


async def test_a_retry_is_of_the_same_team_path_and_body(stack: Stack, requests: Requests) -> None:
    body = {"carpool_simulate": {"milliseconds_per_token": 1}, "prompt": "Who?"}
    identifier = await _hang_up(stack, requests, FOREVER | {"prompt": "Who?"}, retry=0)
    other = await stack.new_key("strangers")
    forever = CHAT | FOREVER | {"prompt": "Who?"}
    async with stack.http(other.secret) as http:
        theirs = asyncio.create_task(_send(Requests(http), forever, 1))
        [stored] = await eventually(Requests(http).ids)
        await Requests(http).cancel(stored)
        assert (await theirs).headers["x-request-id"] == stored
    elsewhere = asyncio.create_task(_send(requests, forever, 1, path="/completions"))

    async def two() -> list[str] | None:
        ids = await requests.ids()
        return ids if len(ids) == 2 else None

    stored, first = await eventually(two)
    assert first == identifier
    await requests.cancel(stored)
    assert (await elsewhere).headers["x-request-id"] == stored
    assert (await _send(requests, CHAT | body, 1)).status_code == 200
    assert await stack.value(REATTACHED, _uuid(identifier)) == 0
    await requests.cancel(identifier)


async def test_a_stream_that_nobody_read_from_is_taken_over_whole(
    stack: Stack, requests: Requests
) -> None:
    """It begins to run while its client is away."""
    pace = {"carpool_simulate": {"milliseconds_per_token": 300}}
    slow = pace | {"model": SIDING, "max_tokens": 3, "stream": True}
    await stack.route(SIDING, "nowhere")
    identifier = await _hang_up(stack, requests, slow, retry=0, status="queued")
    await stack.route(SIDING, MODEL)
    answer = await _send(requests, CHAT | slow, 1)
    assert answer.headers["x-request-id"] == identifier
    frames = answer.text.split("\n\n")
    chunks = [msgspec.json.decode(frame[6:]) for frame in frames if frame.startswith("data: {")]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [*[None] * 3, "length"]
    assert frames[-2] == "data: [DONE]"
    assert await requests.ids() == [identifier]


async def test_who_does_not_come_back_within_the_grace_is_given_up(
    hasty_stack: Stack, hasty: Requests
) -> None:
    identifier = await _hang_up(hasty_stack, hasty, FOREVER, retry=0)
    found = await hasty.until(identifier, "cancelled")
    assert found["error"]["code"] == "client_disconnected"
    await hasty_stack.nothing_in_flight()


async def test_who_comes_back_within_the_grace_is_not_given_up(
    stack: Stack, requests: Requests
) -> None:
    identifier = await _hang_up(stack, requests, FOREVER, retry=0)
    again = asyncio.create_task(_send(requests, CHAT | FOREVER, 1))
    await _reattached(stack, identifier, 1)
    await eventually(lambda: stack.value(ATTENDED, _uuid(identifier)))
    await requests.cancel(identifier)
    answer = await again
    assert answer.json()["error"]["code"] == "request_cancelled"


async def test_who_comes_back_after_the_grace_is_served_anew(
    hasty_stack: Stack, hasty: Requests
) -> None:
    """Not told that it went away: it is here."""
    await hasty_stack.route("detour", "nowhere")
    body = {"model": "detour"}
    identifier = await _hang_up(hasty_stack, hasty, body, retry=0, status="queued")
    await hasty.until(identifier, "cancelled")
    await hasty_stack.route("detour", "simulated")
    answer = await _send(hasty, CHAT | body, 1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] != identifier


async def test_a_request_that_was_left_needs_nobody_who_waits(
    stack: Stack, requests: Requests
) -> None:
    """Neither one who joined it by its key and hung up, nor one who asked for its end."""
    key = {"idempotency-key": "k"}
    left = await requests.http.post(
        "/chat/completions", json=CHAT | FOREVER, headers=key | {"prefer": "respond-async"}
    )
    identifier = left.json()["id"]
    asking = asyncio.create_task(
        requests.http.post("/chat/completions", json=CHAT | FOREVER, headers=key)
    )
    await eventually(lambda: stack.value(ATTENDED, _uuid(identifier)))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    unattended = "select true from queue where id = $1 and channel is null"
    await eventually(lambda: stack.value(unattended, _uuid(identifier)))
    due = "select abandon_at is null from queue where id = $1"
    assert await stack.value(due, _uuid(identifier))
    await requests.cancel(identifier)


async def test_a_retry_that_does_not_wait_keeps_what_it_found(
    stack: Stack, requests: Requests
) -> None:
    """It is told an id, under which the request must still be there after the grace."""
    identifier = await _hang_up(stack, requests, FOREVER, retry=0)
    answer = await requests.http.post(
        "/chat/completions",
        content=msgspec.json.encode(CHAT | FOREVER),
        headers={"x-stainless-retry-count": "1", "prefer": "respond-async"},
    )
    assert (answer.status_code, answer.json()["id"]) == (202, identifier)
    due = "select abandon_at is null from queue where id = $1"
    assert await stack.value(due, _uuid(identifier))
    await requests.cancel(identifier)


async def _send(
    requests: Requests,
    body: Json,
    retry: int | bytes,
    *,
    path: str = "/chat/completions",
    **options: Any,
) -> httpx.Response:
    """The same bytes for the same body, as the SDK sends them."""
    count = retry if isinstance(retry, bytes) else str(retry).encode()
    headers = {b"content-type": b"application/json", b"x-stainless-retry-count": count}
    content = msgspec.json.encode(body)
    return await requests.http.post(path, content=content, headers=headers, **options)


async def _hang_up(
    stack: Stack,
    requests: Requests,
    changes: Json,
    *,
    retry: int,
    identifier: str | None = None,
    status: str = "in_progress",
) -> str:
    """Send a request and close the connection while it waits; the id, once the end is noted."""
    sending = asyncio.create_task(_send(requests, CHAT | changes, retry))
    if identifier is None:
        [identifier] = await eventually(lambda: requests.ids(status=status))
    else:
        await _reattached(stack, identifier, retry)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await _ended(stack, identifier, retry + 1)
    return identifier


async def _ended(stack: Stack, identifier: str, connections: int) -> None:
    async def noted() -> bool:
        return bool(await stack.value(ENDED_CONNECTIONS, _uuid(identifier)) == connections)

    await eventually(noted)


async def _reattached(stack: Stack, identifier: str, times: int) -> None:
    async def noted() -> bool:
        return bool(await stack.value(REATTACHED, _uuid(identifier)) == times)

    await eventually(noted)


def _uuid(identifier: str) -> UUID:
    return parse_public_id("req_", identifier)
