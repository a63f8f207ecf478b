"""An Idempotency-Key names one request of a team: whoever sends it again gets that one's answer.

Rule 1 of 'Duplicate work' in COMPAT section 3.
"""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from openai import BadRequestError, ConflictError, UnprocessableEntityError
from openai.types.chat import ChatCompletion

from carpool.ids import parse_public_id
from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests, Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

NOTED = "select true from disconnects where connection = $1"
ATTENDED = """
select true from queue where id = $1 and channel is not null and abandon_at is null
"""


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_twenty_at_once_are_one_request(requests: Requests) -> None:
    answers = await asyncio.gather(*(_ask(requests, "k") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert {answer.headers["x-request-id"] for answer in answers} == set(await requests.ids())
    assert len(await requests.ids()) == 1


async def test_a_key_joins_while_the_first_still_runs(stack: Stack, requests: Requests) -> None:
    """The engine runs once, and both hear of its end."""
    first = asyncio.create_task(_ask(requests, "k", **FOREVER))
    [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
    before = await _version(stack, identifier)
    second = asyncio.create_task(_ask(requests, "k", **FOREVER))
    await eventually(lambda: _changed(stack, identifier, before))
    await requests.cancel(identifier)
    answers = await asyncio.gather(first, second)
    assert [answer.status_code for answer in answers] == [409, 409]
    assert {answer.headers["x-request-id"] for answer in answers} == {identifier}
    assert await requests.ids() == [identifier]


async def test_an_answer_is_replayed(stock: Stock) -> None:
    def ask(client: Any) -> Any:
        return client.chat.completions.create(**CHAT, extra_headers=keyed("again"))

    first = await stock(ask)
    assert await stock(ask) == first
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert len(listed["data"]) == 1


async def test_an_error_is_replayed(requests: Requests) -> None:
    knobs = {"status": 422}
    first = await _ask(requests, "k", carpool_simulate=knobs)
    again = await _ask(requests, "k", carpool_simulate=knobs)
    assert first.status_code == again.status_code == 422
    assert first.content == again.content
    assert len(await requests.ids()) == 1


async def test_another_body_is_refused_for_good(stock: Stock) -> None:
    await stock(lambda client: client.chat.completions.create(**CHAT, extra_headers=keyed("k")))
    with pytest.raises(UnprocessableEntityError) as caught:
        await stock(
            lambda client: client.with_options(max_retries=3).chat.completions.create(
                **CHAT, n=2, extra_headers=keyed("k")
            )
        )
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert len(listed["data"]) == 1


async def test_a_key_is_its_teams_and_its_paths(
    stack: Stack, requests: Requests, strangers: NewKey
) -> None:
    await _ask(requests, "k")
    text = await requests.http.post(
        "/completions", json=CHAT | {"prompt": "Hello"}, headers=keyed("k")
    )
    assert text.status_code == 200
    assert len(await requests.ids()) == 2
    async with stack.http(strangers.secret) as http:
        answer = await _ask(Requests(http), "k", n=2)
    assert answer.status_code == 200


async def test_streams_of_one_key_have_the_same_chunks(requests: Requests) -> None:
    streams = await asyncio.gather(*(_ask(requests, "k", stream=True) for _ in range(8)))
    again = await _ask(requests, "k", stream=True)
    data = {_data(answer) for answer in (*streams, again)}
    assert len(data) == 1
    assert data.pop().endswith("data: [DONE]")
    assert len(await requests.ids()) == 1


async def test_a_stream_joined_in_its_midst_is_whole_for_both(requests: Requests) -> None:
    slow = {"carpool_simulate": {"milliseconds_per_token": 100}, "max_tokens": 5, "stream": True}
    body = CHAT | slow
    async with requests.http.stream(
        "POST", "/chat/completions", json=body, headers=keyed("k")
    ) as first:
        lines = first.aiter_lines()
        begun = await anext(lines)
        second = await _ask(requests, "k", **slow)
        rest = [line async for line in lines]
    assert _data(second) == "\n".join(line for line in (begun, *rest) if line.startswith("data"))
    assert len(await requests.ids()) == 1


async def test_a_key_of_a_request_that_was_left(requests: Requests) -> None:
    headers = keyed("k") | {"prefer": "respond-async"}
    left = [
        await requests.http.post("/chat/completions", json=CHAT, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in left] == [202, 202]
    first, second = (answer.json()["id"] for answer in left)
    assert first == second
    answer = await _ask(requests, "k")
    ChatCompletion.model_validate(answer.json(), strict=True)
    assert answer.headers["x-request-id"] == first


async def test_a_repeat_is_not_retried_when_its_request_was_cancelled(stock: Stock) -> None:
    def left(client: Any) -> Any:
        return client.chat.completions.with_raw_response.create(
            **CHAT, extra_body=FOREVER, extra_headers=keyed("k") | {"Prefer": "respond-async"}
        )

    identifier = (await stock(left)).request_id
    await stock(lambda client: client.delete(f"/requests/{identifier}", cast_to=object))
    with pytest.raises(ConflictError) as caught:
        await stock(
            lambda client: client.with_options(max_retries=3).chat.completions.create(
                **CHAT, extra_body=FOREVER, extra_headers=keyed("k")
            )
        )
    assert caught.value.request_id == identifier


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_of_no_sensible_length_is_refused(stock: Stock, key: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda client: client.chat.completions.create(**CHAT, extra_headers=keyed(key)))
    assert caught.value.param == "Idempotency-Key"
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert listed["data"] == []


async def test_a_refused_body_takes_no_key(requests: Requests) -> None:
    refused = await _ask(requests, "k", temperature="hot")
    assert refused.status_code == 400
    assert (await _ask(requests, "k")).status_code == 200


async def test_who_joins_after_a_hang_up_is_not_abandoned(stack: Stack, requests: Requests) -> None:
    """The note of the first connection's end, stored late, must not end the second one's wait."""
    async with stack.locked("disconnects"):
        first = asyncio.create_task(_ask(requests, "k", **FOREVER))
        [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await eventually(stack.blocked)
        before = await _version(stack, identifier)
        second = asyncio.create_task(_ask(requests, "k", **FOREVER))
        await eventually(lambda: _changed(stack, identifier, before))
    await eventually(lambda: stack.value(NOTED, _uuid(identifier)))
    await eventually(lambda: stack.value(ATTENDED, _uuid(identifier)), seconds=5)
    await requests.cancel(identifier)
    assert (await second).json()["error"]["code"] == "request_cancelled"


async def _ask(requests: Requests, key: str, **changes: Any) -> httpx.Response:
    return await requests.http.post("/chat/completions", json=CHAT | changes, headers=keyed(key))


async def _version(stack: Stack, identifier: str) -> Any:
    """Changes with each update of the request's row in the queue."""
    return await stack.value("select xmin::text from queue where id = $1", _uuid(identifier))


async def _changed(stack: Stack, identifier: str, before: Any) -> bool:
    return bool(await _version(stack, identifier) != before)


def _uuid(identifier: str) -> UUID:
    return parse_public_id("req_", identifier)


def _data(answer: httpx.Response) -> str:
    return "\n".join(line for line in answer.text.splitlines() if line.startswith("data"))
