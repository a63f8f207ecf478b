"""Whatever befalls the worker or the provider, each row of a provider batch is answered once."""

import asyncio
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.batches import Batches, Json, line
from tests.double.launch import Double, serving
from tests.double.record import Seen
from tests.faults.processes import stopped
from tests.faults.worker import ENV, Worker
from tests.stack import (
    Requests,
    Stack,
    eventually,
    stack_in_temporary_directory,
)

MODEL = "patient"
NAME = "openai"
DAY_SECONDS = 86_400
SPEED = 200.0
"""Of the double's clock: a batch of its 62 seconds takes 0.3."""
CONFIG = """
[backends.patient]
kind = "openai_batch"
base_url = "{url}"
api_key = "sk-of-the-team"
gather_seconds = 0.3
poll_seconds = 0.1
max_lines = 2000
max_bytes = 300000
max_enqueued_tokens = 100000
windows = {{ "24h" = 0.5, "2h" = 0.7 }}

[backends.own]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.patient]
backends = ["patient"]
upstream = "gpt-6-luna"

[models.rescued]
legs = [
    {{ backend = "patient", upstream = "gpt-6-luna", classes = ["flex", "batch"] }},
    {{ backend = "own", upstream = "simulated", classes = ["batch"], left_seconds = 600 }},
]

[models.chained]
legs = [
    {{ backend = "patient", upstream = "gpt-6-luna", classes = ["flex", "batch"] }},
    {{ backend = "own", upstream = "simulated" }},
]

[models.simulated]
backends = ["own"]

[[prices]]
model = "gpt-6-luna"
since = 2026-01-01
input = 0.10
output = 0.50
"""
ALARMS = ("Traceback", "provider_batch_bug", "backend_bug", "never retrieved")
FILES, BATCHES = "/v1/files", "/v1/batches"
ANY_BATCH, ANY_CONTENT = "/v1/batches/batch_*", "/v1/files/*/content"
OPEN = "select count(*) from provider_batches where state < 3"
STATE = "select max(state) from provider_batches where state < 3"
ROWS = """
select (select count(*) from requests) as requests, (select count(*) from results) as results,
    (select count(*) from queue) as waiting
"""
ANSWERS = """
select r.id, s.outcome, s.status_code, convert_from(s.body, 'utf8') as body
from requests r left join results s on s.id = r.id
"""
MONEY = "select sum(paid) as paid, sum(saved_window) as saved from results"
TRIED_AGAIN = "select id, count(*)::integer as times from attempts group by id"
TRIES = """
select count(*) from attempts a join requests r on r.id = a.id where r.batch_id = $1::uuid
"""
LIVE = "select count(distinct backend) from runs where ended_at is null"
HURRY = "update batches set expires_at = now() + interval '300 s' where id = $1::uuid"
BACKENDS = "select backend from results where batch_id = $1::uuid"
ONE_OF = "select id from requests where batch_id = $1::uuid limit 1"
FORGET = "delete from provider_batches where state = 3"
"""From the windows' times in other tests the planner must not learn."""
REFUSALS = "select count(*) from provider_batches where error like $1"
LEFT_OVER = "select count(*) from queue where owner_kind = 2"


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
        await attached.configure(
            windows=["24h", "2h"], batch_file_lines=2000, batch_file_bytes=300_000
        )
        await attached.auto(SPEED)
        try:
            yield attached
        finally:
            print(worker.log.read_text()[-6000:])  # shown where the test fails
        await attached.clear()
        await attached.release()
        await eventually(lambda: _is(stack, OPEN, 0))
        assert await stack.value(LEFT_OVER) == 0
        said = worker.log.read_text()
        assert not [alarm for alarm in ALARMS if alarm in said], said[-6000:]


async def _is(stack: Stack, query: str, value: Any) -> bool:
    return bool(await stack.value(query) == value)


def lines(number: int, **changes: Any) -> list[Json]:
    """So many lines; what each asks names it."""
    return [line(f"r{n}", body={"model": MODEL} | changes) for n in range(number)]


def names(number: int) -> list[str]:
    return [f"r{n}" for n in range(number)]


@asynccontextmanager
async def batches_of(stack: Stack) -> AsyncIterator[Batches]:
    async with stack.http() as http:
        yield Batches(http)


async def ended(batches: Batches, batch: Json, number: int, failed: int = 0) -> None:
    """Wait for a batch's end, with each custom_id once in its files."""
    seen = await batches.ended(batch["id"])
    assert seen["status"] == "completed", seen
    output, error = await batches.proven(seen, names(number))
    assert (len(output), len(error)) == (number - failed, failed)


async def killed_while_held(worker: Worker, double: Double) -> None:
    """Kill the worker while the provider holds a request of its, and let go of that after."""
    await double.until_held()
    worker.replace()
    await double.release()


def done(seen: Seen, path: str, method: str) -> int:
    """How many such calls the provider answered well."""
    return sum(call.status == 200 for call in seen.of(path, method))


async def test_a_mixed_workload_under_kills_expiries_and_partial_failures(
    stack: Stack, double: Double, worker: Worker
) -> None:
    """5,000 rows: 4,500 lines of the Batch API and 500 flex chats, the worker killed at each step.

    Each is answered once, with the text that the provider has for it; and no line is computed
    twice, unless its first computation failed, expired or was never delivered.
    """
    many, some = 4500, 500
    await double.line_fault("Who is r1", status=500, times=40)
    await double.line_fault("Who is r2", code="server_error", times=20)
    await double.line_fault("Who is r3", missing=True, times=20)
    await double.line_fault("Who is r4", doubled=True, times=20)
    await double.line_fault("Who is r44", text='{"custom_id": "cut', times=5)
    await double.line_fault("Who is r777?", status=400, times=None)
    await double.batch_fault(unknown_lines=5, times=2)
    await double.batch_fault(stall_after=100, times=1)
    holds: list[tuple[str, Json]] = [
        (FILES, {"method": "POST", "hang": True}),
        (FILES, {"method": "POST", "hang_after_chunks": 0}),
        (BATCHES, {"method": "POST", "hang": True}),
        (BATCHES, {"method": "POST", "hang_after_chunks": 0}),
        (ANY_BATCH, {"method": "GET", "hang": True}),
        (ANY_CONTENT, {"hang_after_chunks": 1}),
    ]
    path, hold = holds.pop(0)
    await double.fault(path, **hold)
    async with batches_of(stack) as batches:
        batch, *_ = await asyncio.gather(
            batches.create(lines(many)), *(flex(batches.http, n) for n in range(some))
        )
        await killed_while_held(worker, double)
        for path, hold in holds:
            await double.fault(path, **hold)
            await killed_while_held(worker, double)
        turning = asyncio.create_task(_turn(double))
        try:
            await ended(batches, batch, many, failed=1)
            await eventually(lambda: _settled(stack))
        finally:
            turning.cancel()
    await answered_once(stack, double, many + some)
    [money] = await stack.fetch(MONEY)
    assert money["paid"] > 0
    # The window of 24 hours halves the price; each row may differ by the nanodollar of a half.
    assert abs(money["paid"] - money["saved"]) <= many + some


async def _turn(double: Double) -> None:
    """Let what stalls expire."""
    while True:
        await double.advance(DAY_SECONDS)
        await asyncio.sleep(1)


async def answered_once(stack: Stack, double: Double, number: int) -> None:
    seen = await double.seen()
    answers = await stack.fetch(ANSWERS)
    assert len(answers) == number
    assert Counter(row["outcome"] for row in answers) == {0: number - 1, 1: 1}
    computed: Counter[str] = Counter()
    for custom_id, times in seen.lines.items():
        assert times == 1, custom_id
        computed[custom_id.partition(".")[0]] += times
    tries = {row["id"].hex: row["times"] for row in await stack.fetch(TRIED_AGAIN)}
    twice = {name: times for name, times in computed.items() if times > 1 + tries.get(name, 0)}
    assert not twice
    # Those that were computed twice are the ones whose answers were never delivered.
    assert sum(times - 1 for times in computed.values()) <= 20 + 5
    assert sum(tries.values()) >= 40 + 20 + 20


async def flex(http: httpx.AsyncClient, number: int) -> Json:
    """Leave a flex chat to be answered later."""
    messages = [{"role": "user", "content": f"Who is f{number}?"}]
    return await Requests(http).leave(model=MODEL, messages=messages, service_tier="flex")


async def _settled(stack: Stack) -> bool:
    [rows] = await stack.fetch(ROWS)
    return bool(rows["waiting"] == 0 and rows["requests"] == rows["results"])


async def test_rows_cancelled_before_the_submission_are_not_sent(
    stack: Stack, double: Double
) -> None:
    """Also those of a file that is on its way already: another one without them takes its place."""
    await double.fault(FILES, method="POST", hang=True)
    async with stack.http() as http:
        requests = Requests(http)
        made = [await flex(http, n) for n in range(6)]
        await double.until_held()
        for request in made[:4]:
            assert (await requests.cancel(request["id"]))["status"] == "cancelled"
        await double.release()
        for request in made[4:]:
            answered = await requests.until(request["id"], "completed")
            assert (answered["backend"], answered["upstream"]) == ("patient", "gpt-6-luna")
            assert answered["reason"].startswith("Cheapest is the 24h window")
    seen = await double.seen()
    sent = [name for batch in seen.batches for name in batch.custom_ids]
    assert sorted(named(name) for name in sent) == sorted(request["id"] for request in made[4:])


async def test_a_provider_batch_of_cancelled_rows_is_never_submitted(
    stack: Stack, double: Double
) -> None:
    await double.fault(FILES, method="POST", hang=True)
    async with stack.http() as http:
        requests = Requests(http)
        made = [await flex(http, n) for n in range(3)]
        await double.until_held()
        for request in made:
            await requests.cancel(request["id"])
        await double.release()
    await eventually(lambda: _is(stack, OPEN, 0))
    assert (await double.seen()).batches == []


async def test_a_provider_batch_that_nobody_needs_is_cancelled(
    stack: Stack, double: Double
) -> None:
    """A cancelled batch of Carpool: the provider computes no line of it."""
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(20))
        await eventually(lambda: _is(stack, STATE, 2))
        await batches.cancel(batch["id"])
        await double.until("/v1/batches/*/cancel", "POST")
        await double.auto(SPEED)
        assert (await batches.ended(batch["id"]))["status"] == "cancelled"
    await eventually(lambda: _is(stack, OPEN, 0))
    seen = await double.seen()
    assert [batch.status for batch in seen.batches] == ["cancelled"]
    assert not seen.lines


HTML = {"status": 200, "body": "<html><body>Please sign in.</body></html>"}
MISDEEDS: dict[str, list[tuple[str, Json]]] = {
    "it answers HTML": [
        (FILES, {"method": "POST", **HTML}),
        (BATCHES, {**HTML}),
        (ANY_CONTENT, {**HTML}),
    ],
    "it resets connections": [
        (FILES, {"method": "POST", "reset": True}),
        (BATCHES, {"method": "POST", "reset": True}),
        (ANY_CONTENT, {"reset": True}),
    ],
    "its answers are lost": [
        (FILES, {"method": "POST", "cut_after_bytes": 0}),
        (BATCHES, {"method": "POST", "cut_after_bytes": 0}),
        (ANY_BATCH, {"cut_after_bytes": 10}),
        (ANY_CONTENT, {"cut_after_bytes": 700}),
    ],
    "it refuses all for a while": [
        ("/v1/*", {"status": 401, "times": 2}),
        ("/v1/*", {"status": 429, "times": 1, "headers": {"retry-after-ms": "100"}}),
        ("/v1/*", {"status": 500, "times": 1}),
        (ANY_BATCH, {"status": 404, "times": 2}),
    ],
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
async def test_a_provider_that_misbehaves_loses_no_row_and_computes_none_twice(
    stack: Stack, double: Double, misdeed: str
) -> None:
    for path, fault in MISDEEDS[misdeed]:
        await double.fault(path, **fault)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(30))
        await ended(batches, batch, 30)
    seen = await double.seen()
    assert len(seen.lines) == 30
    assert set(seen.lines.values()) == {1}
    assert len(seen.batches) == 1
    assert await stack.value(TRIES, name_of(batch)) == 0


async def test_a_key_that_is_revoked_while_the_provider_computes_loses_nothing(
    stack: Stack, double: Double
) -> None:
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(10))
        await eventually(lambda: _is(stack, STATE, 2))
        await double.configure(keys=["sk-another"])
        await double.forget()
        await double.until("/v1/batches*", "GET", 2)
        assert {call.status for call in (await double.seen()).of("/v1/batches*")} <= {401, None}
        await double.configure(keys=None)
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    assert await stack.value(TRIES, name_of(batch)) == 0


async def test_what_the_enqueued_token_limit_keeps_out_returns_and_goes_later(
    stack: Stack, double: Double
) -> None:
    """In halves, where the provider names no limit; it counts as no attempt."""
    await double.batch_fault(code="token_limit_exceeded", message="Enqueued token limit reached.")
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(20))
        await ended(batches, batch, 20)
    seen = [b.status for b in (await double.seen()).batches]
    assert seen[0] == "failed"
    assert set(seen[1:]) == {"completed"}
    assert 2 <= len(seen[1:]) <= 3
    assert await stack.value(TRIES, name_of(batch)) == 0


async def test_the_enqueued_token_limit_is_learned_from_the_refusal(
    stack: Stack, double: Double
) -> None:
    """One refusal tells the limit; what alone passes it fails with the provider's words."""
    await double.configure(enqueued_tokens=100)
    try:
        async with batches_of(stack) as batches:
            batch = await batches.create(lines(30))
            await ended(batches, batch, 30)
            statuses = [b.status for b in (await double.seen()).batches]
            assert statuses.count("failed") == 1
            assert await stack.value(TRIES, name_of(batch)) == 0
            huge = {"model": MODEL, "messages": [{"role": "user", "content": "Who? " * 300}]}
            batch = await batches.create([*lines(5), line("r5", body=huge)])
            seen = await batches.ended(batch["id"])
            output, error = await batches.proven(seen, names(6))
        assert (len(output), len(error)) == (5, 1)
        [response] = [item["response"] for item in error]
        assert (response["status_code"], response["body"]["error"]["code"]) == (
            400,
            "token_limit_exceeded",
        )
        assert "Limit: 100 enqueued tokens" in response["body"]["error"]["message"]
    finally:
        await double.configure(enqueued_tokens=None)


async def test_a_row_alone_that_finds_no_room_for_long_fails(stack: Stack, double: Double) -> None:
    """Where no limit is named, after as many attempts as any other failure takes."""
    reason = "Enqueued token limit reached."
    await double.batch_fault(code="token_limit_exceeded", message=reason, times=None)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(1))
        seen = await batches.ended(batch["id"])
        _, [item] = await batches.proven(seen, names(1))
    error = item["response"]["body"]["error"]
    assert (item["response"]["status_code"], error["code"]) == (400, "token_limit_exceeded")


@pytest.mark.parametrize("code", ["token_limit_exceeded", "another"])
async def test_a_refusal_with_a_nul_is_noted_without_it(
    stack: Stack, double: Double, code: str
) -> None:
    await double.batch_fault(code=code, message="Not\0 now.")
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(10))
        await ended(batches, batch, 10)
    assert await stack.value(REFUSALS, f"%{code}: Not now.") == 1


async def test_lines_that_the_provider_names_fail_and_the_others_go_on(
    stack: Stack, double: Double
) -> None:
    """A file of which some lines are refused at validation: each of them ends with that error."""
    await double.configure(models=["gpt-6-luna"])
    odd = [line(f"r{n}", body={"model": MODEL, "messages": []}) for n in range(2)]
    async with batches_of(stack) as batches:
        batch = await batches.create([*odd, *lines(10)[2:]])
        seen = await batches.ended(batch["id"])
        output, error = await batches.proven(seen, names(10))
    assert (len(output), len(error)) == (8, 2)
    assert {item["response"]["status_code"] for item in error} == {400}


async def test_an_answer_that_no_row_can_hold_fails_alone(stack: Stack, double: Double) -> None:
    """Usage past all integers, say: it is tried again, and all behind it stand."""
    answer = {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 10**13}}
    await double.line_fault("Who is r2?", status=200, body=answer)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(10))
        await ended(batches, batch, 10)
    assert sorted((await double.seen()).lines.values()) == [1] * 10
    assert await stack.value(TRIES, name_of(batch)) == 1


async def test_a_batch_that_the_provider_refuses_for_good_fails_with_its_reason(
    stack: Stack, double: Double
) -> None:
    await double.configure(models=["another"])
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(5))
        seen = await batches.ended(batch["id"])
        _, error = await batches.proven(seen, names(5))
    assert {item["response"]["body"]["error"]["code"] for item in error} == {"model_not_found"}


async def test_a_worker_told_to_end_leaves_its_batches_to_the_next(
    stack: Stack, double: Double, worker: Worker
) -> None:
    """It hands nothing back to the queue, and the next goes on without waiting for a lease."""
    await double.auto(0)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(50))
        await eventually(lambda: _is(stack, STATE, 2))
        worker.end(signal.SIGTERM)
        assert await stack.value(LEFT_OVER) == 50
        assert (
            await stack.value("select count(*) from provider_batches where kept_until > now()") == 0
        )
        worker.replace()
        await double.auto(SPEED)
        await ended(batches, batch, 50)
    assert done(await double.seen(), BATCHES, "POST") == 1


async def test_a_keeper_that_slept_through_its_lease_takes_back_what_it_did(
    stack: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Stopped while it submits, it comes back to find that another has submitted it, too."""
    await double.auto(0)
    await double.fault(BATCHES, method="POST", hang=True)
    async with batches_of(stack) as batches:
        batch = await batches.create(lines(10))
        await double.until_held()
        with stopped(worker.pid):
            other = Worker(stack, config, "patient", seat="another")
            try:
                await eventually(lambda: _is(stack, STATE, 2))
            finally:
                other.end(signal.SIGTERM)
            await double.release()
            await double.until(BATCHES, "POST", 2)
        await double.until("/v1/batches/*/cancel", "POST")
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    seen = await double.seen()
    assert sorted(b.status for b in seen.batches) == ["cancelled", "completed"]
    assert len(seen.lines) == 10
    assert set(seen.lines.values()) == {1}


async def test_what_gets_late_is_taken_back_for_live_calls(
    stack: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """As its deadline nears a provider batch is cancelled, and the route's next leg answers."""
    own = Worker(stack, config, "own")
    try:
        await double.auto(0)
        await double.fault(BATCHES, method="POST", hang=True)
        async with batches_of(stack) as batches:
            await eventually(lambda: _is(stack, LIVE, 2))
            batch = await batches.create(
                [line(f"r{n}", body={"model": "rescued"}) for n in range(10)]
            )
            await double.until_held()
            await stack.fetch(HURRY, name_of(batch))
            await stack.fetch("update provider_batches set deadline = now() + interval '300 s'")
            await double.release()
            await double.until("/v1/batches/*/cancel", "POST")
            await double.auto(SPEED)
            await ended(batches, batch, 10)
        answers = await stack.fetch(BACKENDS, name_of(batch))
        assert {row["backend"] for row in answers} == {"own"}
        assert not (await double.seen()).lines
    finally:
        own.end(signal.SIGTERM)


async def test_what_no_window_meets_goes_to_the_leg_behind_at_once(
    stack: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """A batch of 30 minutes is answered live, one of a day by the cheapest window; both say why."""
    own = Worker(stack, config, "own")
    try:
        async with batches_of(stack) as batches:
            await eventually(lambda: _is(stack, LIVE, 2))
            hurried, patient = [
                await batches.create(
                    [line(f"r{n}", body={"model": "chained"}) for n in range(10)],
                    completion_window=window,
                )
                for window in ("30m", "24h")
            ]
            await ended(batches, hurried, 10)
            await ended(batches, patient, 10)
            [found] = await stack.fetch(ONE_OF, name_of(patient))
            seen = (await batches.http.get(f"/requests/req_{found['id'].hex}")).json()
        for batch, backend in ((hurried, "own"), (patient, "patient")):
            answers = await stack.fetch(BACKENDS, name_of(batch))
            assert {row["backend"] for row in answers} == {backend}
        assert "Cheapest is the 24h window (price x 0.5" in seen["reason"]
    finally:
        own.end(signal.SIGTERM)


def named(custom_id: str) -> str:
    """The id that clients see, by a line's custom_id."""
    return f"req_{custom_id.partition('.')[0]}"


def name_of(batch: Json) -> str:
    return str(batch["id"].removeprefix("batch_"))
