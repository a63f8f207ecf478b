"""Each row goes by the cheapest way that answers it in time: a window, the next one, or live."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from uuid import UUID

import httpx
from openai.types.chat import ChatCompletion

from tests.batches import Json, line
from tests.clients import Requests
from tests.double.launch import Double
from tests.faults.provider_rows import (
    ANSWERS,
    BY_RESPONSE,
    HURRY,
    LATE,
    LIVE,
    MODEL,
    NOTED,
    OPEN,
    SEEN_WINDOW,
    SPEED,
    TRIED,
    TRIES,
    batches_of,
    create,
    ended,
    lines,
    made,
    name_of,
    of_requests,
    until,
)
from tests.faults.worker import Worker
from tests.stack import Stack

pytest_plugins = ("tests.faults.provider_fixtures",)

WAY = BY_RESPONSE
LATE_ROWS = "update queue set deadline = now() + interval '300 s' where id = any($1::uuid[])"
LIVE_STREAMS = "select count(*) from queue where streamed and class = 0"


async def test_a_batch_of_eight_hours_goes_by_the_window_of_eight_hours(
    bare: Stack, double: Double
) -> None:
    """Each row one response with our name, read once and deleted; 40 % of the price is saved."""
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(20))
        output = await ended(batches, batch, 20)
        for item in output:
            said = ChatCompletion.model_validate(item["response"]["body"], strict=True)
            assert said.model == MODEL
            asked = {"messages": [{"role": "user", "content": f"Who is {item['custom_id']}?"}]}
            assert said.choices[0].message.content == double.text(asked)
            assert said.choices[0].finish_reason == "stop"
        found = await bare.fetch(ANSWERS, name_of(batch))
        request = (await batches.http.get(f"/requests/req_{found[0]['id'].hex}")).json()
    assert {(row["completion_window"], row["background"]) for row in found} == {("8h", True)}
    for row in found:
        whole = row["paid"] + row["saved_window"]
        assert whole > 0
        assert abs(row["paid"] - 0.6 * whole) <= 1
    assert request["reason"].startswith("Cheapest is the 8h window (price x 0.6, taken for 7.2 h)")
    assert "the 24h window (price x 0.5, taken for 21.6 h) would be late" in request["reason"]
    await until(bare, OPEN, 0)
    responses = await made(double)
    assert {(one.completion_window, one.paid, one.deleted) for one in responses} == {
        ("8h", True, True)
    }
    assert of_requests(responses) == {f"{row['id'].hex}.1": 1 for row in found}
    assert (await double.seen()).batches == []
    assert await bare.value(SEEN_WINDOW, "completed") == 1


async def test_what_has_a_day_waits_a_day_and_what_has_three_hours_pays_for_two(
    bare: Stack, double: Double
) -> None:
    """The planner's three windows, each by its way."""
    async with batches_of(bare) as batches:
        patient, hurried = (
            await create(batches, lines(5), "24h"),
            await create(batches, lines(5), "3h"),
        )
        await ended(batches, patient, 5)
        await ended(batches, hurried, 5)
    assert {b.completion_window for b in (await double.seen()).batches} == {"24h"}
    assert [one.completion_window for one in await made(double)] == ["2h"] * 5
    assert {row["background"] for row in await bare.fetch(ANSWERS, name_of(patient))} == {False}


async def test_a_chat_that_has_three_hours_goes_by_the_window_of_two(
    bare: Stack, double: Double
) -> None:
    """One by itself, that says by when it is needed; its client reads a chat completion."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Who?"}]}
    headers = {"prefer": "respond-async", "x-carpool-deadline": "3h"}
    async with bare.http() as http:
        left = await http.post(
            "/chat/completions", json=chat | {"service_tier": "flex"}, headers=headers
        )
        assert left.status_code == 202, left.text
        answered = await Requests(http).until(left.json()["id"], "completed")
    assert answered["reason"].startswith("Cheapest is the 2h window (price x 0.7")
    assert answered["response"]["choices"][0]["message"]["content"] == double.text(chat)
    [seen] = await made(double)
    assert seen.completion_window == "2h"


async def test_rows_without_an_equal_go_by_the_window_of_a_day(bare: Stack, double: Double) -> None:
    """Where nobody answers live: it is found once for each, and costs them no attempt."""
    odd = [line(f"r{n}", body={"model": MODEL, "seed": 1}) for n in range(5)]
    async with batches_of(bare) as batches:
        batch = await create(batches, odd + lines(10)[5:])
        await ended(batches, batch, 10)
    found = await bare.fetch(ANSWERS, name_of(batch))
    ways = Counter((b'"seed"' in row["asked"], row["completion_window"]) for row in found)
    assert ways == {(True, "24h"): 5, (False, "8h"): 5}
    seen = await double.seen()
    assert (len(seen.responses), sum(len(b.custom_ids) for b in seen.batches)) == (5, 5)
    reasons = await bare.fetch("select reason from provider_batches where not background")
    assert [row["reason"].partition(" in ")[0] for row in reasons] == ["Nothing meets the deadline"]
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_rows_without_an_equal_are_left_to_live_calls_that_are_in_time(
    bare: Stack, double: Double, own: Worker
) -> None:
    """At once, though a batch of 8 hours has more time than the shortest window takes."""
    await until(bare, LIVE, 2)
    async with batches_of(bare) as batches:
        odd = [line(f"r{n}", body={"model": "chained", "stop": ["x"]}) for n in range(5)]
        batch = await create(batches, odd + lines(10, model="chained")[5:])
        await ended(batches, batch, 10)
    found = await bare.fetch(ANSWERS, name_of(batch))
    ways = Counter((b'"stop"' in row["asked"], row["backend"]) for row in found)
    assert ways == {(True, "own"): 5, (False, "patient"): 5}
    assert (await double.seen()).batches == []


async def test_what_gets_late_is_taken_back_for_live_calls(
    bare: Stack, double: Double, worker: Worker, own: Worker
) -> None:
    """Also what has one attempt left, which is that of the live call."""
    await double.auto(0)
    async with batches_of(bare) as batches:
        await until(bare, LIVE, 2)
        batch = await create(batches, lines(10, model="chained"))
        await until(bare, NOTED, 10)
        await bare.fetch(TRIED)
        await bare.fetch(HURRY, name_of(batch))
        await bare.fetch(LATE)
        worker.replace()  # the next reads the new deadline
        await ended(batches, batch, 10)
    found = await bare.fetch(ANSWERS, name_of(batch))
    assert {row["backend"] for row in found} == {"own"}
    assert not any(one.paid for one in await made(double))


async def test_of_one_provider_batch_what_is_late_alone_is_taken_back(
    bare: Stack, double: Double, worker: Worker, own: Worker
) -> None:
    await double.auto(0)
    await until(bare, LIVE, 2)
    async with bare.http() as http:
        requests = Requests(http)
        left = [(await leave(http, n))["id"] for n in range(6)]
        await until(bare, NOTED, 6)
        late = [UUID(hex=name.removeprefix("req_")) for name in left[:2]]
        await bare.fetch(LATE_ROWS, late)
        await bare.fetch(LATE)
        worker.replace()  # the next reads the new deadline
        for name in left[:2]:
            assert (await requests.until(name, "completed"))["backend"] == "own"
        await double.auto(SPEED)
        for name in left[2:]:
            assert (await requests.until(name, "completed"))["backend"] == "patient"
    statuses = Counter((one.status, one.paid) for one in await made(double))
    assert statuses == {("cancelled", False): 2, ("completed", True): 4}


async def test_a_flex_stream_that_waited_before_the_route_led_here_is_answered_live(
    bare: Stack, double: Double, config: Path
) -> None:
    chat = {"model": "chained", "messages": [{"role": "user", "content": "Who?"}], "stream": True}
    async with bare.http() as http:
        asking = asyncio.create_task(http.post("/chat/completions", json=chat))
        await until(bare, LIVE_STREAMS, 1)
        await bare.fetch("update queue set class = 1 where streamed")
        await until(bare, LIVE_STREAMS, 1)
        own = Worker(bare, config, "own")
        try:
            answer = await asking
        finally:
            own.end(signal.SIGTERM)
    assert answer.headers["x-carpool-backend"] == "own"
    assert answer.text.endswith("data: [DONE]\n\n")


async def leave(http: httpx.AsyncClient, number: int) -> Json:
    """Leave a flex chat that has three hours."""
    chat = {"model": "chained", "messages": [{"role": "user", "content": f"Who is f{number}?"}]}
    headers = {"prefer": "respond-async", "x-carpool-deadline": "3h"}
    answer = await http.post(
        "/chat/completions", json=chat | {"service_tier": "flex"}, headers=headers
    )
    assert answer.status_code == 202, answer.text
    left: Json = answer.json()
    return left
