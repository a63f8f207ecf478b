"""A single request may have a deadline: it goes first to who is patient, then to who is quick."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.batches import Batches, line
from tests.clients import CHAT, Requests
from tests.double.launch import Double, serving
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory

PATH = "/v1/chat/completions"
MOST_ATTEMPTS = 2
FAILURES = MOST_ATTEMPTS + 2
CONFIG = """
[backends.cloud]
kind = "openai"
base_url = "{url}"
api_key = "sk-any"
models = []

[backends.patient]
kind = "openai_batch"
base_url = "{url}"
api_key = "sk-any"
gather_seconds = 0.1
poll_seconds = 0.1
windows = {{ "24h" = 0.5 }}

[backends.stuck]
kind = "simulated"
first_token_milliseconds = 600000

[backends.own]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.cloudy]
backends = ["cloud"]
upstream = "gpt-6-luna"

[models.busy]
legs = [
    {{ backend = "stuck", teams = ["nobody"] }},
    {{ backend = "own", upstream = "quick", left_seconds = 600 }},
]

[models.cheap]
legs = [
    {{ backend = "patient", upstream = "gpt-6-luna", classes = ["flex", "batch"] }},
    {{ backend = "own", upstream = "quick" }},
]

[models.stuck]
backends = ["stuck"]
upstream = "slow-v1"

[models.own]
backends = ["own"]
"""
ENV = {"CARPOOL_POLL_SECONDS": "0.1", "CARPOOL_MAX_ATTEMPTS": str(MOST_ATTEMPTS)}
OVER = "update queue set deadline = now() where id = $1::uuid returning true"
"""As if a request's deadline had come."""
RETRIED_SECONDS = 90.0
"""The pauses between the attempts of the longest test here take up to 20."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def stack(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config: Path = tmp_path_factory.mktemp("deadlines") / "carpool.toml"
    config.write_text(CONFIG.format(url=url))
    with stack_in_temporary_directory(ENV, options=("--config", str(config))) as started:
        yield started


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.http() as client:
        client.timeout = httpx.Timeout(RETRIED_SECONDS)
        yield client


@pytest.fixture
async def double(url: str, stack: Stack) -> AsyncIterator[Double]:
    async with Double(url=url) as attached:
        yield attached


def within(span: str, **headers: str) -> dict[str, str]:
    return {"x-carpool-deadline": span} | headers


async def ask(http: httpx.AsyncClient, span: str, **fields: object) -> httpx.Response:
    return await http.post("/chat/completions", json=CHAT | fields, headers=within(span))


async def leave(http: httpx.AsyncClient, span: str, **fields: object) -> Json:
    """Leave a request to be answered later; its object."""
    answer = await http.post(
        "/chat/completions", json=CHAT | fields, headers=within(span, prefer="respond-async")
    )
    assert answer.status_code == 202, answer.text
    found: Json = answer.json()
    return found


def is_late(error: Json) -> None:
    assert error["code"] == "deadline_exceeded"
    assert "deadline" in error["message"]


@pytest.mark.parametrize("span", ["soon", "0", "-1s", "31d", "1h1m", ""])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", CHAT),
        ("/completions", {"model": "own", "prompt": "Who?"}),
        ("/embeddings", {"model": "own", "input": "Who?"}),
    ],
)
async def test_what_is_no_span_is_refused_and_not_stored(
    stack: Stack, http: httpx.AsyncClient, path: str, body: Json, span: str
) -> None:
    before = await stack.value("select count(*) from requests")
    answer = await http.post(path, json=body | {"model": "own"}, headers=within(span))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-carpool-deadline"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert await stack.value("select count(*) from requests") == before


async def test_an_answer_in_time_is_an_answer(http: httpx.AsyncClient) -> None:
    """And its object tells the deadline then, too; null where it had none."""
    requests = Requests(http)
    answer = await ask(http, "2h", model="own")
    assert answer.status_code == 200
    found = await requests.get(answer.headers["x-request-id"])
    assert found["deadline"] - found["created_at"] == pytest.approx(7200, abs=60)
    without = await http.post("/chat/completions", json=CHAT | {"model": "own"})
    assert (await requests.get(without.headers["x-request-id"]))["deadline"] is None


@pytest.mark.parametrize("tier", ["default", "flex"])
async def test_a_client_that_waits_is_told_and_the_run_lets_go(
    stack: Stack, http: httpx.AsyncClient, tier: str
) -> None:
    requests = Requests(http)
    asking = asyncio.create_task(ask(http, "1h", model="stuck", service_tier=tier))
    [identifier] = await eventually(lambda: requests.ids(status="in_progress", model="stuck"))
    await eventually(lambda: _in_flight(stack, 1))
    await _end_time(stack, identifier)
    answer = await asking
    assert (answer.status_code, answer.headers["x-should-retry"]) == (408, "false")
    is_late(answer.json()["error"])
    assert answer.headers["x-request-id"] == identifier
    found = await requests.get(identifier)
    assert found["status"] == "expired"
    is_late(found["error"])
    await eventually(lambda: _in_flight(stack, 0))


async def test_one_that_is_left_expires(stack: Stack, http: httpx.AsyncClient) -> None:
    """While it runs, its object names what computes it."""
    requests = Requests(http)
    left = await leave(http, "3600", model="stuck")
    assert left["deadline"] is not None
    running = await requests.until(left["id"], "in_progress")
    assert (running["backend"], running["upstream"]) == ("stuck", "slow-v1")
    await _end_time(stack, left["id"])
    expired = await requests.until(left["id"], "expired")
    assert (expired["deadline"], expired["response"]) == (left["deadline"], None)


async def test_a_route_that_changes_under_a_run_is_not_told_for_the_old_one(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    requests = Requests(http)
    admin = {"authorization": f"Bearer {stack.admin_key}"}
    route = f"{stack.root_url}/admin/v1/routes/stuck"
    left = await leave(http, "1h", model="stuck")
    await requests.until(left["id"], "in_progress")
    changed = {"legs": [{"backend": "stuck", "upstream": "slow-v2"}]}
    assert (await http.put(route, json=changed, headers=admin)).status_code == 200
    running = await requests.get(left["id"])
    assert (running["backend"], running["upstream"]) == ("stuck", None)
    await requests.cancel(left["id"])
    before = {"legs": [{"backend": "stuck", "upstream": "slow-v1"}]}
    assert (await http.put(route, json=before, headers=admin)).status_code == 200


async def test_a_stream_that_has_begun_ends_with_the_error(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    slow = {"carpool_simulate": {"milliseconds_per_token": 100}}
    body = CHAT | {"model": "own", "stream": True, "max_tokens": 8000} | slow
    async with http.stream("POST", "/chat/completions", json=body, headers=within("1h")) as answer:
        assert answer.status_code == 200
        lines = (line async for line in answer.aiter_lines() if line.startswith("data: "))
        assert "choices" in await anext(lines)
        await _end_time(stack, answer.headers["x-request-id"])
        *_, last = [line async for line in lines]
    is_late(httpx.Response(200, content=last.removeprefix("data: ")).json()["error"])


async def test_a_stream_that_has_not_begun_is_refused(http: httpx.AsyncClient) -> None:
    answer = await ask(http, "1s", model="stuck", stream=True)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (408, "false")
    is_late(answer.json()["error"])


async def test_a_quick_leg_takes_it_as_its_deadline_nears(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    """Ten minutes before, of whatever class; what has more time left waits."""
    requests = Requests(http)
    far = await leave(http, "1h", model="busy", service_tier="flex")
    near = await leave(http, "602s", model="busy", service_tier="flex")
    answered = await requests.until(near["id"], "completed")
    claimed = "select extract(epoch from started_at) from results where id = $1::uuid"
    opened = answered["deadline"] - 600
    assert await stack.value(claimed, near["id"].removeprefix("req_")) >= opened
    assert (answered["backend"], answered["upstream"]) == ("own", "quick")
    answer = await ask(http, "5m", model="busy")
    assert answer.headers["x-carpool-backend"] == "own"
    assert (await requests.get(far["id"]))["status"] == "queued"
    await requests.cancel(far["id"])


async def test_a_patient_backend_leaves_what_it_has_no_time_for(
    http: httpx.AsyncClient, double: Double
) -> None:
    """The provider's window takes a day: what has less than that goes to the leg behind."""
    requests = Requests(http)
    patient = await leave(http, "7d", model="cheap", service_tier="flex")
    hurried = await leave(http, "1h", model="cheap", service_tier="flex")
    answered = await requests.until(hurried["id"], "completed")
    assert (answered["backend"], answered["upstream"]) == ("own", "quick")
    gathered = await requests.until(patient["id"], "in_progress")
    assert (gathered["backend"], gathered["upstream"]) == ("patient", "gpt-6-luna")
    await requests.cancel(patient["id"])


async def test_failures_are_outlasted_within_the_deadline(
    stack: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """More of them than a request without a deadline is tried."""
    await double.fault(PATH, status=500, times=MOST_ATTEMPTS)
    failed = await http.post("/chat/completions", json=CHAT | {"model": "cloudy"})
    assert failed.status_code == 500
    await double.fault(PATH, status=500, times=FAILURES)
    answer = await ask(http, "5m", model="cloudy")
    assert answer.status_code == 200, answer.text
    found = await Requests(http).get(answer.headers["x-request-id"])
    assert found["attempts"] == FAILURES + 1


async def test_a_stream_of_the_flex_class_is_answered_live(http: httpx.AsyncClient) -> None:
    """No provider batch could answer it: it does not wait for one, deadline or not."""
    body = CHAT | {"model": "cheap", "service_tier": "flex", "stream": True}
    answer = await http.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-carpool-backend"] == "own"
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_batchs_window_is_the_deadline_of_its_lines(
    http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, status=502, times=FAILURES)
    batches = Batches(http)
    batch = await batches.run([line("only", body={"model": "cloudy"})])
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


async def test_spent_money_does_not_come_back_with_time(
    http: httpx.AsyncClient, double: Double
) -> None:
    """It fails as often as a request may, whatever its deadline."""
    error = {"message": "no money", "type": "insufficient_quota", "param": None}
    body = {"error": {**error, "code": "insufficient_quota"}}
    await double.fault(PATH, status=429, times=None, body=body)
    answer = await ask(http, "1h", model="cloudy")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert len((await double.seen()).of(PATH)) == MOST_ATTEMPTS


async def test_an_answer_that_is_none_is_not_paid_until_the_deadline(
    http: httpx.AsyncClient, double: Double
) -> None:
    """Asked again as often as a request may be, whatever its deadline."""
    await double.fault(PATH, status=200, times=None, body={"object": "nothing"})
    answer = await ask(http, "1h", model="cloudy")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "backend_error")
    assert len((await double.seen()).of(PATH)) == MOST_ATTEMPTS


async def test_an_attempt_that_would_come_too_late_is_not_waited_for(
    http: httpx.AsyncClient, double: Double
) -> None:
    """The provider's last error is the answer, at once."""
    await double.fault(PATH, status=503, headers={"retry-after": "60"}, times=None)
    began = time.monotonic()
    answer = await ask(http, "20s", model="cloudy")
    assert time.monotonic() - began < 10
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] != "deadline_exceeded"


async def test_a_twin_is_held_no_longer_than_its_deadline(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    """The one that it follows goes on; a leader that expires is computed on for who follows it."""
    fixed: Json = {"model": "stuck", "temperature": 0}
    requests = Requests(http)
    first = (await requests.leave(**fixed))["id"]
    late = await leave(http, "1s", **fixed)
    assert (await requests.until(late["id"], "expired"))["error"]["code"] == "deadline_exceeded"
    assert (await requests.get(first))["status"] != "expired"
    await requests.cancel(first)

    leader = await leave(http, "1h", **fixed, user="other")
    await requests.until(leader["id"], "in_progress")
    follower = (await requests.leave(**fixed, user="other"))["id"]
    await _end_time(stack, leader["id"])
    await requests.until(leader["id"], "expired")
    assert (await requests.get(follower))["status"] == "queued"
    assert await stack.value("select count(*) from queue where ghost and state = 1") == 1
    await requests.cancel(follower)


async def _end_time(stack: Stack, identifier: str) -> None:
    """Let the deadline of a request that has not ended come now."""
    assert await stack.value(OVER, identifier.removeprefix("req_"))


async def _in_flight(stack: Stack, number: int) -> bool:
    found = await stack.value(
        "select sum(in_flight) from runs where ended_at is null and backend = 'stuck'"
    )
    return bool(found == number)
