"""A request can be left behind, awaited, watched and cancelled, by its team alone."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from openai import ConflictError, NotFoundError
from openai.types.chat import ChatCompletion

from carpool.ids import new_id, public_id
from db.keys import NewKey
from tests.clients import CHAT, FOREVER, Requests, Stock
from tests.stack import IN_FLIGHT, MODEL, Json, Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

LATER = {"Prefer": "respond-async"}
FIELDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "object": (str,),
    "status": (str,),
    "endpoint": (str,),
    "model": (str,),
    "backend": (str, type(None)),
    "upstream": (str, type(None)),
    "reason": (str, type(None)),
    "cost": (dict, type(None)),
    "created_at": (int,),
    "deadline": (int, type(None)),
    "started_at": (int, type(None)),
    "completed_at": (int, type(None)),
    "attempts": (int,),
    "response": (dict, type(None)),
    "error": (dict, type(None)),
}


def check(found: Json) -> None:
    """It is a request object, and consistent in itself."""
    assert list(found) == list(FIELDS)
    for name, types in FIELDS.items():
        assert type(found[name]) in types, (name, found[name])
    assert found["object"] == "request"
    ended = found["status"] in ("completed", "failed", "cancelled", "expired")
    assert (found["completed_at"] is not None) == ended
    assert (found["response"] is not None) == (found["status"] == "completed")
    assert (found["error"] is not None) == (ended and found["status"] != "completed")


async def test_a_request_that_is_left_is_answered_later(stock: Stock) -> None:
    """All of it by the stock client."""
    raw = await stock(
        lambda client: client.chat.completions.with_raw_response.create(**CHAT, extra_headers=LATER)
    )
    assert raw.status_code == 202
    left = raw.http_response.json()
    check(left)
    assert left["status"] in ("queued", "in_progress", "completed")
    assert raw.headers["x-request-id"] == left["id"]
    assert raw.headers["preference-applied"] == "respond-async"
    found = await stock(
        lambda client: client.get(
            f"/requests/{left['id']}", cast_to=object, options={"params": {"wait": 30}}
        )
    )
    check(found)
    assert (found["status"], found["endpoint"], found["model"], found["backend"]) == (
        "completed",
        "/v1/chat/completions",
        MODEL,
        "simulated",
    )
    assert found["attempts"] == 1
    assert left["created_at"] <= found["started_at"] <= found["completed_at"]
    answer = await stock(lambda client: client.chat.completions.create(**CHAT))
    assert ChatCompletion.model_validate(found["response"]).choices == answer.choices


@pytest.mark.parametrize(
    ("path", "changes"),
    [("/completions", {"prompt": "Who?"}), ("/embeddings", {"input": ["a", "b"]})],
)
async def test_every_endpoint_can_be_left(requests: Requests, path: str, changes: Json) -> None:
    left = await requests.leave(path, **changes)
    found = await requests.get(left["id"], wait=30)
    check(found)
    assert (found["status"], found["endpoint"]) == ("completed", f"/v1{path}")


async def test_a_long_poll_ends_with_the_request(requests: Requests) -> None:
    left = await requests.leave(**FOREVER)
    await requests.until(left["id"], "in_progress")
    polling = asyncio.create_task(requests.get(left["id"], wait=60))
    await requests.get(left["id"])
    assert not polling.done()
    await requests.cancel(left["id"])
    assert (await asyncio.wait_for(polling, 5))["status"] == "cancelled"


async def test_a_long_poll_ends_with_its_time(requests: Requests) -> None:
    left = await requests.leave(**FOREVER)
    began = time.monotonic()
    found = await requests.get(left["id"], wait=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert found["status"] in ("queued", "in_progress")
    await requests.cancel(left["id"])


@pytest.mark.parametrize("wait", ["-1", "301", "soon", "nan", "inf", "9" * 5000])
async def test_a_wait_that_is_none_is_refused(requests: Requests, wait: str) -> None:
    left = await requests.leave()
    answer = await requests.http.get(f"/requests/{left['id']}", params={"wait": wait})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "wait"


async def test_a_streamed_request_shows_its_folded_answer(requests: Requests) -> None:
    whole = await requests.get((await requests.leave(n=2))["id"], wait=30)
    streamed = await requests.leave(n=2, stream=True, stream_options={"include_usage": True})
    folded = await requests.get(streamed["id"], wait=30)
    check(folded)
    answer = ChatCompletion.model_validate(folded["response"], strict=True)
    expected = ChatCompletion.model_validate(whole["response"], strict=True)
    assert answer.choices == expected.choices
    assert answer.usage == expected.usage


async def test_events_tell_each_change_of_status(requests: Requests) -> None:
    left = await requests.leave(**FOREVER)
    statuses = []
    async with requests.http.stream("GET", f"/requests/{left['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        async for event, found in _events(answer):
            check(found)
            assert event == f"request.{found['status']}"
            assert found["id"] == left["id"]
            statuses.append(found["status"])
            if found["status"] == "in_progress":
                await requests.cancel(left["id"])
    assert statuses in (["queued", "in_progress", "cancelled"], ["in_progress", "cancelled"])


async def test_events_of_an_ended_request_are_one(requests: Requests) -> None:
    left = await requests.leave()
    await requests.get(left["id"], wait=30)
    async with requests.http.stream("GET", f"/requests/{left['id']}/events") as answer:
        told = [event async for event, _ in _events(answer)]
    assert told == ["request.completed"]


async def test_a_waiting_request_is_cancelled(requests: Requests, parked: str) -> None:
    left = await requests.leave(model=parked)
    assert left["status"] == "queued"
    cancelled = await requests.cancel(left["id"])
    check(cancelled)
    assert (cancelled["status"], cancelled["attempts"]) == ("cancelled", 0)
    assert cancelled["error"]["code"] == "request_cancelled"
    assert await requests.cancel(left["id"]) == cancelled == await requests.get(left["id"])


async def test_a_running_request_is_cancelled_in_the_engine(
    stack: Stack, requests: Requests
) -> None:
    left = await requests.leave(**FOREVER)
    await requests.until(left["id"], "in_progress")

    async def held() -> bool:
        return bool(await stack.value(IN_FLIGHT) > 0)

    await eventually(held)
    cancelled = await requests.cancel(left["id"])
    check(cancelled)
    assert (cancelled["status"], cancelled["backend"]) == ("cancelled", "simulated")
    await stack.nothing_in_flight()
    assert await requests.cancel(left["id"]) == cancelled


async def test_an_ended_request_stays_as_it_is(requests: Requests) -> None:
    left = await requests.leave()
    ended = await requests.get(left["id"], wait=30)
    assert ended["status"] == "completed"
    assert await requests.cancel(left["id"]) == ended == await requests.get(left["id"])


async def test_who_waits_for_a_cancelled_request_is_told_and_does_not_retry(
    stack: Stack, team: NewKey, requests: Requests
) -> None:
    async with stack.async_client(api_key=team.secret, max_retries=2) as client:
        asking = asyncio.create_task(client.chat.completions.create(**CHAT, extra_body=FOREVER))
        [identifier] = await eventually(lambda: requests.ids(status="in_progress"))
        await requests.cancel(identifier)
        with pytest.raises(ConflictError) as caught:
            await asyncio.wait_for(asking, 5)
    assert caught.value.code == "request_cancelled"
    assert caught.value.request_id == identifier
    assert await requests.ids() == [identifier]


async def test_a_cancel_and_the_end_leave_one_result(requests: Requests) -> None:
    """Whichever comes first, all that look see the same."""
    left = await asyncio.gather(*(requests.leave() for _ in range(60)))
    ids = [found["id"] for found in left]
    polls = [asyncio.create_task(requests.get(identifier, wait=30)) for identifier in ids]
    cancelled = await asyncio.gather(*(requests.cancel(identifier) for identifier in ids[::2]))
    polled = await asyncio.wait_for(asyncio.gather(*polls), 15)
    assert polled[::2] == cancelled
    assert {found["status"] for found in polled[1::2]} == {"completed"}
    for found in polled:
        check(found)
        assert await requests.get(found["id"]) == found


async def test_a_lasting_error_is_shown(requests: Requests) -> None:
    left = await requests.leave(carpool_simulate={"status": 422})
    failed = await requests.get(left["id"], wait=30)
    check(failed)
    assert (failed["status"], failed["attempts"]) == ("failed", 1)
    assert set(failed["error"]) == {"message", "type", "param", "code"}
    assert failed["error"]["code"] == "simulated"


async def test_attempts_are_counted(requests: Requests) -> None:
    knobs = {"status": 503, "times": 1, "retry_after_seconds": 0.01}
    left = await requests.leave(carpool_simulate=knobs)
    found = await requests.get(left["id"], wait=30)
    check(found)
    assert (found["status"], found["attempts"]) == ("completed", 2)


async def test_a_request_of_another_team_is_not_there(
    stack: Stack, requests: Requests, strangers: NewKey
) -> None:
    left = await requests.leave(**FOREVER)
    await requests.until(left["id"], "in_progress")
    async with stack.http(strangers.secret) as http:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
            answer = await http.request(method, f"/requests/{left['id']}{path}")
            assert answer.status_code == 404
            assert left["id"] in answer.json()["error"]["message"]
        assert await Requests(http).ids() == []
    assert (await requests.get(left["id"]))["status"] == "in_progress"
    await requests.cancel(left["id"])


@pytest.mark.parametrize(
    "identifier",
    [
        public_id("req_", new_id()),
        "req_",
        "req_1",
        "req_" + "z" * 32,
        "req_" + "0" * 33,
        "batch_" + new_id().hex,
        new_id().hex,
        "req_" + str(new_id())[:32],
        "%00",
        "é",
    ],
    ids=range(10),
)
async def test_an_id_that_no_request_has_is_not_found(stock: Stock, identifier: str) -> None:
    for ask in (
        lambda client: client.get(f"/requests/{identifier}", cast_to=object),
        lambda client: client.delete(f"/requests/{identifier}", cast_to=object),
    ):
        with pytest.raises(NotFoundError) as caught:
            await stock(ask)
        assert caught.value.request_id


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    """The events of a stream as the client's decoder needs them: none without data, no id."""
    event = None
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            assert event is not None
            yield event, msgspec.json.decode(value)
            event = None
        else:
            assert not line or line.startswith(":")
    assert event is None
