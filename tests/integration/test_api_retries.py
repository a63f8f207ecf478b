"""A client that comes back gets the answer that it missed, and the engine runs once.

Rules 2 to 4 of 'Duplicate work' in COMPAT section 3.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest
from openai import InternalServerError, Omit

from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests, Stock
from tests.integration.retrying import (
    ATTENDED,
    SIDING,
    hang_up,
    reattached,
    send,
    uuid_of,
)
from tests.stack import MODEL, Json, Stack, eventually

RETRIES = 10
"""Enough for a loaded machine that keeps some of them waiting too long."""
UNANNOUNCED = {"x-stainless-read-timeout": Omit()}
"""A client that does not say how long it waits."""
ENDED_OF_KEY = """
with mine as (select id from requests where key_id = $1)
select count(*) from disconnects d
where
    d.connection in (select id from mine)
    or d.connection in (select successor from reattachments join mine on id = request_id)
"""


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
    answer = await send(requests, CHAT, count.encode("latin-1"))
    assert answer.status_code == 200


async def test_who_does_not_come_back_within_the_grace_is_given_up(
    hasty_stack: Stack, hasty: Requests
) -> None:
    identifier = await hang_up(hasty_stack, hasty, FOREVER, retry=0)
    found = await hasty.until(identifier, "cancelled")
    assert found["error"]["code"] == "client_disconnected"
    await hasty_stack.nothing_in_flight()


async def test_who_comes_back_within_the_grace_is_not_given_up(
    stack: Stack, requests: Requests
) -> None:
    identifier = await hang_up(stack, requests, FOREVER, retry=0)
    again = asyncio.create_task(send(requests, CHAT | FOREVER, 1))
    await reattached(stack, identifier, 1)
    await eventually(lambda: stack.value(ATTENDED, uuid_of(identifier)))
    await requests.cancel(identifier)
    answer = await again
    assert answer.json()["error"]["code"] == "request_cancelled"


async def test_who_comes_back_after_the_grace_is_served_anew(
    hasty_stack: Stack, hasty: Requests
) -> None:
    """Not told that it went away: it is here."""
    await hasty_stack.route("detour", "nowhere")
    body = {"model": "detour"}
    identifier = await hang_up(hasty_stack, hasty, body, retry=0, status="queued")
    await hasty.until(identifier, "cancelled")
    await hasty_stack.route("detour", "simulated")
    answer = await send(hasty, CHAT | body, 1)
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
    await eventually(lambda: stack.value(ATTENDED, uuid_of(identifier)))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    unattended = "select true from queue where id = $1 and channel is null"
    await eventually(lambda: stack.value(unattended, uuid_of(identifier)))
    due = "select abandon_at is null from queue where id = $1"
    assert await stack.value(due, uuid_of(identifier))
    await requests.cancel(identifier)


async def test_a_retry_that_does_not_wait_keeps_what_it_found(
    stack: Stack, requests: Requests
) -> None:
    """It is told an id, under which the request must still be there after the grace."""
    identifier = await hang_up(stack, requests, FOREVER, retry=0)
    answer = await requests.http.post(
        "/chat/completions",
        content=msgspec.json.encode(CHAT | FOREVER),
        headers={"x-stainless-retry-count": "1", "prefer": "respond-async"},
    )
    assert (answer.status_code, answer.json()["id"]) == (202, identifier)
    due = "select abandon_at is null from queue where id = $1"
    assert await stack.value(due, uuid_of(identifier))
    await requests.cancel(identifier)
