"""Whatever befalls the worker or the provider, each background response's row is answered once."""

import asyncio
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.batches import Batches, Json, line
from tests.double.launch import Double, serving
from tests.double.record import SeenResponse
from tests.faults.processes import stopped
from tests.faults.worker import ENV, Worker
from tests.stack import Requests, Stack, eventually, stack_in_temporary_directory

MODEL = "patient"
NAME = "openai"
SPEED = 200.0
"""Of the double's clock: a response of its 61 seconds takes 0.3."""
AT_ONCE = 16
"""Responses that a worker creates at once: so many may be in doubt when it is killed."""
CONFIG = """
[backends.patient]
kind = "openai_batch"
base_url = "{url}"
api_key = "sk-of-the-team"
gather_seconds = 0.3
poll_seconds = 0.1
background_windows = {{ "8h" = 0.6, "2h" = 0.7 }}

[backends.own]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.patient]
backends = ["patient"]
upstream = "gpt-6-luna"

[models.chained]
legs = [
    {{ backend = "patient", upstream = "gpt-6-luna", classes = ["flex", "batch"] }},
    {{ backend = "own", upstream = "simulated" }},
]

[[prices]]
model = "gpt-6-luna"
since = 2026-01-01
input = 0.10
output = 0.50
"""
ALARMS = ("Traceback", "provider_batch_bug", "backend_bug", "never retrieved")
RESPONSES, ANY, ANY_CANCEL = "/v1/responses", "/v1/responses/resp_*", "/v1/responses/*/cancel"
BATCHES = "/v1/batches"
OPEN = "select count(*) from provider_batches where state < 3"
NOTED = "select count(*) from provider_responses"
LEFT_OVER = "select count(*) from queue where owner_kind = 2"
FORGET = "delete from provider_batches where state = 3"
"""From the windows' times in other tests the planner must not learn."""
ANSWERS = """
select r.id, r.body as asked, s.outcome, s.status_code, s.body, s.backend, s.paid, s.saved_window,
    p.completion_window, p.background
from requests r join results s on s.id = r.id left join provider_batches p on p.id = s.run_id
where r.batch_id = $1::uuid
"""
TRIES = """
select a.error from attempts a join requests r on r.id = a.id where r.batch_id = $1::uuid
"""
REASON = "select reason from provider_batches order by id desc limit 1"
NINE_HOURS_LATER = "update provider_responses set created_at = created_at - interval '9 hours'"
HURRY = "update batches set expires_at = now() + interval '300 s' where id = $1::uuid"
LATE = "update provider_batches set deadline = now() + interval '300 s' where state < 3"
TRIED = "update queue set attempts = 4 where owner_kind = 2"
LIVE = "select count(distinct backend) from runs where ended_at is null"
SEEN_WINDOW = """
select count(*) from provider_batches
where state = 3 and background and provider_status = $1 and ended_at > submitted_at
"""


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    with serving(name=NAME) as url:
        yield url


@pytest.fixture(scope="module")
def config(provider_url: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="carpool-config-"))
    file = directory / "carpool.toml"
    file.write_text(CONFIG.format(url=provider_url))
    yield file
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def stack(config: Path) -> Iterator[Stack]:
    """One without workers: those of the tests are killed more often than a supervisor likes."""
    options = ("--workers", "0", "--config", str(config))
    with stack_in_temporary_directory(ENV, options=options) as started:
        yield started


@pytest.fixture(scope="module")
def worker(stack: Stack, config: Path) -> Iterator[Worker]:
    started = Worker(stack, config, "patient")
    yield started
    started.end(signal.SIGTERM)


@pytest.fixture
async def double(provider_url: str, stack: Stack, worker: Worker) -> AsyncIterator[Double]:
    """The double, fresh, with its clock running; after the test nothing is left to be kept."""
    await stack.fetch(FORGET)
    async with Double(name=NAME, url=provider_url) as attached:
        await attached.auto(SPEED)
        try:
            yield attached
        finally:
            print(worker.log.read_text()[-6000:])  # shown where the test fails
        await attached.clear()
        await attached.release()
        await eventually(lambda: _is(stack, OPEN, 0))
        assert await stack.value(LEFT_OVER) == 0
        assert await stack.value(NOTED) == 0
        said = worker.log.read_text()
        assert not [alarm for alarm in ALARMS if alarm in said], said[-6000:]


async def _is(stack: Stack, query: str, value: Any) -> bool:
    return bool(await stack.value(query) == value)


def lines(number: int, **changes: Any) -> list[Json]:
    """So many lines; what each asks names it, and has an equal as a response."""
    return [line(f"r{n}", body={"model": MODEL, "max_tokens": 64} | changes) for n in range(number)]


@asynccontextmanager
async def batches_of(stack: Stack) -> AsyncIterator[Batches]:
    async with stack.http() as http:
        yield Batches(http)


async def create(batches: Batches, content: list[Json], window: str = "8h") -> Json:
    """A batch that has so much time."""
    return await batches.create(content, completion_window=window)


async def ended(batches: Batches, batch: Json, number: int, failed: int = 0) -> list[Json]:
    """Wait for a batch's end, with each custom_id once in its files; the lines of both."""
    seen = await batches.ended(batch["id"])
    assert seen["status"] == "completed", seen
    output, error = await batches.proven(seen, [f"r{n}" for n in range(number)])
    assert (len(output), len(error)) == (number - failed, failed)
    return output + error


async def made(double: Double) -> list[SeenResponse]:
    """The responses that the provider was asked for."""
    return (await double.seen()).responses


def of_requests(responses: list[SeenResponse]) -> Counter[str]:
    """How many of these each claim has."""
    return Counter((one.metadata or {})["carpool_request"] for one in responses)


def name_of(batch: Json) -> str:
    return str(batch["id"].removeprefix("batch_"))


async def test_a_batch_of_eight_hours_goes_by_the_window_of_eight_hours(
    stack: Stack, double: Double
) -> None:
    """Each row one response with our name, read once and deleted; 40 % of the price is saved."""
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(20))
        output = await ended(batches, batch, 20)
        for item in output:
            said = ChatCompletion.model_validate(item["response"]["body"], strict=True)
            assert said.model == MODEL
            asked = {"messages": [{"role": "user", "content": f"Who is {item['custom_id']}?"}]}
            assert said.choices[0].message.content == double.text(asked)
            assert said.choices[0].finish_reason == "stop"
        found = await stack.fetch(ANSWERS, name_of(batch))
        request = (await batches.http.get(f"/requests/req_{found[0]['id'].hex}")).json()
    assert {(row["completion_window"], row["background"]) for row in found} == {("8h", True)}
    for row in found:
        whole = row["paid"] + row["saved_window"]
        assert whole > 0
        assert abs(row["paid"] - 0.6 * whole) <= 1
    assert request["reason"].startswith("Cheapest is the 8h window (price x 0.6, taken for 7.2 h)")
    assert "the 24h window (price x 0.5, taken for 21.6 h) would be late" in request["reason"]
    await eventually(lambda: _is(stack, OPEN, 0))
    responses = await made(double)
    assert {(one.completion_window, one.paid, one.deleted) for one in responses} == {
        ("8h", True, True)
    }
    assert of_requests(responses) == {f"{row['id'].hex}.1": 1 for row in found}
    assert (await double.seen()).batches == []
    assert await stack.value(SEEN_WINDOW, "completed") == 1


async def test_what_has_a_day_waits_a_day_and_what_has_three_hours_pays_for_two(
    stack: Stack, double: Double
) -> None:
    """The planner's three windows, each by its way."""
    async with batches_of(stack) as batches:
        patient, hurried = (
            await create(batches, lines(5), "24h"),
            await create(batches, lines(5), "3h"),
        )
        await ended(batches, patient, 5)
        await ended(batches, hurried, 5)
    assert {b.completion_window for b in (await double.seen()).batches} == {"24h"}
    assert [one.completion_window for one in await made(double)] == ["2h"] * 5
    assert {row["background"] for row in await stack.fetch(ANSWERS, name_of(patient))} == {False}


async def test_a_chat_that_has_three_hours_goes_by_the_window_of_two(
    stack: Stack, double: Double
) -> None:
    """One by itself, that says by when it is needed; its client reads a chat completion."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Who?"}]}
    headers = {"prefer": "respond-async", "x-carpool-deadline": "3h"}
    async with stack.http() as http:
        left = await http.post(
            "/chat/completions", json=chat | {"service_tier": "flex"}, headers=headers
        )
        assert left.status_code == 202, left.text
        answered = await Requests(http).until(left.json()["id"], "completed")
    assert answered["reason"].startswith("Cheapest is the 2h window (price x 0.7")
    assert answered["response"]["choices"][0]["message"]["content"] == double.text(chat)
    [seen] = await made(double)
    assert seen.completion_window == "2h"


async def test_a_worker_killed_at_each_step_answers_each_row_once(
    stack: Stack, double: Double, worker: Worker
) -> None:
    """None that was noted is created again; of those in doubt at a kill, some may be."""
    number = 200
    holds: list[tuple[str, Json]] = [
        (RESPONSES, {"method": "POST", "hang": True}),
        (RESPONSES, {"method": "POST", "hang_after_chunks": 0}),
        (ANY, {"method": "GET", "hang": True}),
        (ANY, {"method": "GET", "hang_after_chunks": 0}),
        (ANY, {"method": "DELETE", "hang": True}),
        (ANY, {"method": "DELETE", "hang_after_chunks": 0}),
    ]
    path, hold = holds.pop(0)
    await double.fault(path, **hold)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(number))
        for path, hold in [*holds, ("", {})]:
            await double.until_held()
            worker.end()
            await double.release()
            if path:
                await double.fault(path, **hold)
            worker.replace()
        await ended(batches, batch, number)
    found = await stack.fetch(ANSWERS, name_of(batch))
    assert Counter(row["status_code"] for row in found) == {200: number}
    created = of_requests(await made(double))
    assert set(created) == {f"{row['id'].hex}.1" for row in found}
    assert created.total() <= number + 2 * AT_ONCE
    assert await stack.fetch(TRIES, name_of(batch)) == []


async def test_what_is_noted_is_adopted_and_never_created_again(
    stack: Stack, double: Double, worker: Worker
) -> None:
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(50))
        await eventually(lambda: _is(stack, NOTED, 50))
        worker.replace()
        await double.auto(SPEED)
        await ended(batches, batch, 50)
    assert len(await made(double)) == 50


async def test_a_worker_told_to_end_leaves_its_responses_to_the_next(
    stack: Stack, double: Double, worker: Worker
) -> None:
    """In the middle of their creation: what was asked for is noted before it goes."""
    await double.fault(RESPONSES, method="POST", hang_after_chunks=0)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(100))
        await double.until_held()
        ending = asyncio.create_task(asyncio.to_thread(worker.end, signal.SIGTERM))
        await eventually(lambda: _is(stack, LIVE, 1))
        await double.release()
        await ending
        worker.replace()
        await ended(batches, batch, 100)
    assert len(await made(double)) == 100


async def test_responses_of_a_cancelled_batch_are_cancelled_and_cost_nothing(
    stack: Stack, double: Double
) -> None:
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(20))
        await eventually(lambda: _is(stack, NOTED, 20))
        await batches.cancel(batch["id"])
        await double.until(ANY_CANCEL, "POST", 20)
        assert (await batches.ended(batch["id"]))["status"] == "cancelled"
    await eventually(lambda: _is(stack, OPEN, 0))
    assert {(one.status, one.paid, one.deleted) for one in await made(double)} == {
        ("cancelled", False, True)
    }
    assert await stack.value(SEEN_WINDOW, "completed") == 0


async def test_what_is_not_done_in_its_window_is_cancelled_and_goes_anew(
    stack: Stack, double: Double
) -> None:
    await double.response_fault("Who is r", stall=True, times=3)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(10))
        await eventually(lambda: _is(stack, NOTED, 3))
        await stack.fetch(NINE_HOURS_LATER)
        await ended(batches, batch, 10)
    tries = await stack.fetch(TRIES, name_of(batch))
    assert [row["error"].partition(":")[0] for row in tries] == ["batch_expired"] * 3
    responses = await made(double)
    assert Counter(one.status for one in responses) == {"completed": 10, "cancelled": 3}
    await eventually(lambda: _is(stack, OPEN, 0))
    assert await stack.value(SEEN_WINDOW, "expired") == 1


async def test_rows_without_an_equal_go_by_the_window_of_a_day(
    stack: Stack, double: Double
) -> None:
    """Where nobody answers live: it is found once for each, and costs them no attempt."""
    odd = [line(f"r{n}", body={"model": MODEL, "seed": 1}) for n in range(5)]
    async with batches_of(stack) as batches:
        batch = await create(batches, odd + lines(10)[5:])
        await ended(batches, batch, 10)
    found = await stack.fetch(ANSWERS, name_of(batch))
    ways = Counter((b'"seed"' in row["asked"], row["completion_window"]) for row in found)
    assert ways == {(True, "24h"): 5, (False, "8h"): 5}
    seen = await double.seen()
    assert (len(seen.responses), sum(len(b.custom_ids) for b in seen.batches)) == (5, 5)
    reasons = await stack.fetch("select reason from provider_batches where not background")
    assert [row["reason"].partition(" in ")[0] for row in reasons] == ["Nothing meets the deadline"]
    assert await stack.fetch(TRIES, name_of(batch)) == []


async def test_rows_without_an_equal_are_left_to_live_calls_that_are_in_time(
    stack: Stack, double: Double, config: Path
) -> None:
    own = Worker(stack, config, "own")
    try:
        await eventually(lambda: _is(stack, LIVE, 2))
        async with batches_of(stack) as batches:
            odd = [line(f"r{n}", body={"model": "chained", "stop": ["x"]}) for n in range(5)]
            batch = await create(batches, odd + lines(10, model="chained")[5:])
            await double.until(ANY, "DELETE", 5)
            await eventually(lambda: _is(stack, LEFT_OVER, 0))
            await stack.fetch(HURRY, name_of(batch))
            await ended(batches, batch, 10)
        found = await stack.fetch(ANSWERS, name_of(batch))
        ways = Counter((b'"stop"' in row["asked"], row["backend"]) for row in found)
        assert ways == {(True, "own"): 5, (False, "patient"): 5}
        assert (await double.seen()).batches == []
    finally:
        own.end(signal.SIGTERM)


async def test_what_gets_late_is_taken_back_for_live_calls(
    stack: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Also what has one attempt left, which is that of the live call."""
    own = Worker(stack, config, "own")
    try:
        await double.auto(0)
        async with batches_of(stack) as batches:
            await eventually(lambda: _is(stack, LIVE, 2))
            batch = await create(batches, lines(10, model="chained"))
            await eventually(lambda: _is(stack, NOTED, 10))
            await stack.fetch(HURRY, name_of(batch))
            await stack.fetch(LATE)
            await stack.fetch(TRIED)
            worker.replace()  # the next reads the new deadline
            await ended(batches, batch, 10)
        found = await stack.fetch(ANSWERS, name_of(batch))
        assert {row["backend"] for row in found} == {"own"}
        assert not any(one.paid for one in await made(double))
    finally:
        own.end(signal.SIGTERM)


HTML = {"status": 200, "body": "<html><body>Please sign in.</body></html>"}
MISDEEDS: dict[str, list[tuple[str, Json]]] = {
    "it answers HTML": [
        (RESPONSES, {"method": "POST", **HTML}),
        (ANY, {"method": "GET", **HTML}),
        (ANY, {"method": "DELETE", **HTML}),
    ],
    "it resets connections": [
        (RESPONSES, {"method": "POST", "reset": True}),
        (ANY, {"method": "GET", "reset": True}),
        (ANY, {"method": "DELETE", "reset": True}),
    ],
    "its answers are lost": [
        (ANY, {"method": "GET", "cut_after_bytes": 10}),
        (ANY, {"method": "DELETE", "cut_after_bytes": 0}),
    ],
    "it refuses all for a while": [
        ("/v1/*", {"status": 401, "times": 2}),
        ("/v1/*", {"status": 429, "times": 1, "headers": {"retry-after-ms": "100"}}),
        ("/v1/*", {"status": 500, "times": 1}),
        (ANY, {"method": "GET", "status": 404, "times": 2}),
    ],
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
async def test_a_provider_that_misbehaves_loses_no_row_and_computes_none_twice(
    stack: Stack, double: Double, misdeed: str
) -> None:
    for path, fault in MISDEEDS[misdeed]:
        await double.fault(path, **fault)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(30))
        await ended(batches, batch, 30)
    responses = await made(double)
    assert set(of_requests(responses).values()) == {1}
    assert len(responses) == 30
    assert await stack.fetch(TRIES, name_of(batch)) == []


async def test_a_response_whose_creation_was_answered_to_nobody_is_paid_once_more(
    stack: Stack, double: Double
) -> None:
    """It cannot be looked for; its row has one answer all the same."""
    await double.fault(RESPONSES, method="POST", cut_after_bytes=0)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(10))
        await ended(batches, batch, 10)
    assert sorted(of_requests(await made(double)).values()) == [1] * 9 + [2]


async def test_a_key_that_is_revoked_meanwhile_loses_nothing(stack: Stack, double: Double) -> None:
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(10))
        await eventually(lambda: _is(stack, NOTED, 10))
        await double.configure(keys=["sk-another"])
        await double.forget()
        await double.until("/v1/responses*", "GET", 2)
        assert {call.status for call in (await double.seen()).of("/v1/responses*")} <= {401, None}
        await double.configure(keys=None)
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    assert await stack.fetch(TRIES, name_of(batch)) == []
    assert len(await made(double)) == 10


async def test_each_end_of_a_response_is_told_to_its_row(stack: Stack, double: Double) -> None:
    """A passing failure is tried again; others end the row, as errors or as what was cut short."""
    await double.response_fault("Who is r0?", code="server_error")
    await double.response_fault("Who is r1?", code="invalid_prompt", message="It is none.")
    await double.response_fault("Who is r2?", incomplete="content_filter")
    await double.response_fault("Who is r3?", incomplete="max_output_tokens")
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(6))
        items = {item["custom_id"]: item for item in await ended(batches, batch, 6, failed=1)}
    bodies = {name: item["response"]["body"] for name, item in items.items()}
    refused = items["r1"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (400, "invalid_prompt")
    reasons = {
        name: body["choices"][0]["finish_reason"]
        for name, body in bodies.items()
        if "choices" in body
    }
    assert reasons == {
        "r0": "stop",
        "r2": "content_filter",
        "r3": "length",
        "r4": "stop",
        "r5": "stop",
    }
    [tried] = await stack.fetch(TRIES, name_of(batch))
    assert tried["error"].startswith("server_error")


async def test_a_refusal_of_a_response_is_none_of_the_chat(stack: Stack, double: Double) -> None:
    """Its client wrote no `input`: the row goes as it was written, and costs no attempt."""
    await double.fault(
        RESPONSES,
        method="POST",
        holding="Who is r3?",
        status=400,
        body={"error": {"message": "No.", "type": "invalid_request_error", "param": "input"}},
    )
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(5))
        await ended(batches, batch, 5)
    found = await stack.fetch(ANSWERS, name_of(batch))
    ways = {(b"Who is r3?" in row["asked"], row["completion_window"]) for row in found}
    assert ways == {(True, "24h"), (False, "8h")}
    assert await stack.fetch(TRIES, name_of(batch)) == []


async def test_a_model_that_has_not_the_window_goes_by_another_way(
    stack: Stack, double: Double
) -> None:
    await double.configure(background_windows=[])
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(5))
        await ended(batches, batch, 5)
    found = await stack.fetch(ANSWERS, name_of(batch))
    assert {row["completion_window"] for row in found} == {"24h"}
    assert await made(double) == []


async def test_the_provider_s_rate_limit_is_kept_and_loses_nothing(
    stack: Stack, double: Double
) -> None:
    await double.configure(requests_per_minute=240, queued_seconds=0.1, response_seconds=0.5)
    await double.auto(1)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(260))
        await ended(batches, batch, 260)
    seen = await double.seen()
    assert set(of_requests(seen.responses).values()) == {1}
    statuses = Counter(call.status for call in seen.of(RESPONSES, "POST"))
    assert statuses[200] == 260
    assert statuses[429] <= 2 * AT_ONCE
    assert await stack.fetch(TRIES, name_of(batch)) == []


async def test_a_keeper_that_slept_through_its_lease_takes_back_what_it_did(
    stack: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Stopped while it creates one, it comes back to find that another has created it, too."""
    await double.auto(0)
    await double.fault(RESPONSES, method="POST", hang=True)
    async with batches_of(stack) as batches:
        batch = await create(batches, lines(10))
        await double.until_held()
        with stopped(worker.pid):
            other = Worker(stack, config, "patient", seat="another")
            try:
                await eventually(lambda: _is(stack, NOTED, 10))
            finally:
                other.end(signal.SIGTERM)
            await double.release()
            await double.until(RESPONSES, "POST", 11)
        await double.until(ANY_CANCEL, "POST")
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    responses = await made(double)
    paid = of_requests([one for one in responses if one.paid])
    assert (len(paid), set(paid.values())) == (10, {1})
    assert {one.status for one in responses if not one.paid} == {"cancelled"}
