"""A retry takes over what its client asked before: one to one, and only what is its own.

Rules 2 to 4 of 'Duplicate work' in COMPAT section 3.
"""

import asyncio

import msgspec
import pytest

from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests
from tests.integration.retrying import (
    ATTENDED,
    REATTACHED,
    SIDING,
    hang_up,
    reattached,
    send,
    uuid_of,
)
from tests.stack import MODEL, Stack, eventually

MANY_SECONDS = 100.0
"""A hundred retries at once try each of a hundred requests, which a loaded machine does slowly."""
ALL_ATTENDED = """
select count(*) from queue
where id = any($1::uuid[]) and channel is not null and abandon_at is null
"""
ALL_ENDED = "select count(*) from disconnects where connection = any($1::uuid[])"


async def test_many_retries_in_a_row_hold_on_to_one_request(
    stack: Stack, requests: Requests
) -> None:
    identifier = await hang_up(stack, requests, FOREVER, retry=0)
    for retry in range(1, 5):
        await hang_up(stack, requests, FOREVER, retry=retry, identifier=identifier)
    last = asyncio.create_task(send(requests, CHAT | FOREVER, 5))
    await reattached(stack, identifier, 5)
    await eventually(lambda: stack.value(ATTENDED, uuid_of(identifier)))
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
        asyncio.create_task(send(requests, body, 0, timeout=MANY_SECONDS)) for _ in range(clients)
    ]

    async def all_run() -> list[str] | None:
        ids = await requests.ids(status="in_progress", limit=100)
        return ids if len(ids) == clients else None

    ids = await eventually(all_run, MANY_SECONDS)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    connections = [uuid_of(identifier) for identifier in ids]

    async def all_ended() -> bool:
        return bool(await stack.value(ALL_ENDED, connections) == clients)

    await eventually(all_ended, MANY_SECONDS)
    retries = [
        asyncio.create_task(send(requests, body, 1, timeout=MANY_SECONDS)) for _ in range(clients)
    ]

    async def all_wait() -> bool:
        listed = [uuid_of(identifier) for identifier in await requests.ids(limit=100)]
        return bool(await stack.value(ALL_ATTENDED, listed) == clients)

    await eventually(all_wait, MANY_SECONDS)
    for identifier in await requests.ids(limit=100):
        await requests.cancel(identifier)
    answers = await asyncio.gather(*retries)
    assert {answer.headers["x-request-id"] for answer in answers} == set(ids)
    assert set(await requests.ids(limit=100)) == set(ids)


async def test_a_first_try_is_never_taken_for_a_retry(stack: Stack, requests: Requests) -> None:
    identifier = await hang_up(stack, requests, FOREVER, retry=0)
    asking = [asyncio.create_task(send(requests, CHAT | FOREVER, 0)) for _ in range(5)]

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
    identifier = await hang_up(stack, requests, body, retry=0, status="queued")
    await stack.route(SIDING, MODEL)
    await requests.until(identifier, "completed")
    answer = await send(requests, CHAT | body, 1)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, identifier)
    assert await requests.ids() == [identifier]


async def test_what_was_delivered_is_computed_anew(stack: Stack, requests: Requests) -> None:
    first = await send(requests, CHAT, 0)
    identifier = first.headers["x-request-id"]
    delivered = "select true from deliveries where id = $1"
    await eventually(lambda: stack.value(delivered, uuid_of(identifier)))
    again = await send(requests, CHAT, 1)
    assert again.headers["x-request-id"] != identifier
    assert len(await requests.ids()) == 2


async def test_a_request_that_has_its_client_is_not_taken_from_it(
    stack: Stack, requests: Requests
) -> None:
    first = asyncio.create_task(send(requests, CHAT | FOREVER, 0))
    [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
    second = asyncio.create_task(send(requests, CHAT | FOREVER, 1))

    async def two() -> list[str] | None:
        ids = await requests.ids(status="in_progress")
        return ids if len(ids) == 2 else None

    for found in await eventually(two):
        await requests.cancel(found)
    answers = await asyncio.gather(first, second)
    assert answers[0].headers["x-request-id"] == identifier
    assert answers[1].headers["x-request-id"] != identifier
    assert await stack.value(REATTACHED, uuid_of(identifier)) == 0


async def test_a_retry_is_of_the_same_team_path_and_body(
    stack: Stack, requests: Requests, strangers: NewKey
) -> None:
    body = {"carpool_simulate": {"milliseconds_per_token": 1}, "prompt": "Who?"}
    identifier = await hang_up(stack, requests, FOREVER | {"prompt": "Who?"}, retry=0)
    forever = CHAT | FOREVER | {"prompt": "Who?"}
    async with stack.http(strangers.secret) as http:
        theirs = asyncio.create_task(send(Requests(http), forever, 1))
        [stored] = await eventually(Requests(http).ids)
        await Requests(http).cancel(stored)
        assert (await theirs).headers["x-request-id"] == stored
    elsewhere = asyncio.create_task(send(requests, forever, 1, path="/completions"))

    async def two() -> list[str] | None:
        ids = await requests.ids()
        return ids if len(ids) == 2 else None

    stored, first = await eventually(two)
    assert first == identifier
    await requests.cancel(stored)
    assert (await elsewhere).headers["x-request-id"] == stored
    assert (await send(requests, CHAT | body, 1)).status_code == 200
    assert await stack.value(REATTACHED, uuid_of(identifier)) == 0
    await requests.cancel(identifier)


async def test_a_stream_that_nobody_read_from_is_taken_over_whole(
    stack: Stack, requests: Requests
) -> None:
    """It begins to run while its client is away."""
    pace = {"carpool_simulate": {"milliseconds_per_token": 300}}
    slow = pace | {"model": SIDING, "max_tokens": 3, "stream": True}
    await stack.route(SIDING, "nowhere")
    identifier = await hang_up(stack, requests, slow, retry=0, status="queued")
    await stack.route(SIDING, MODEL)
    answer = await send(requests, CHAT | slow, 1)
    assert answer.headers["x-request-id"] == identifier
    frames = answer.text.split("\n\n")
    chunks = [msgspec.json.decode(frame[6:]) for frame in frames if frame.startswith("data: {")]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [*[None] * 3, "length"]
    assert frames[-2] == "data: [DONE]"
    assert await requests.ids() == [identifier]
