"""No log of a whole Carpool holds a prompt, an answer or a key, whatever goes wrong.

Each text that a test sends is planted: it holds a marker that is looked for in all that the stack
has printed or written, in the logs of its Postgres and Valkey too.
"""

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.clients import CHAT, Requests
from tests.double.launch import Double
from tests.integration.cloud import CLOUD, PATH, PATIENT, cloud
from tests.stack import MODEL, READY_LINE, Json, Stack, eventually, stack_in_temporary_directory

MARKER = "planted"
PROVIDER_KEY = f"sk-{MARKER}-provider-key"
SAID_BY_UP = "carpool: "
"""What `up` says to a person beside the logs of its children."""
HOSTILE_IDS = (
    f'{MARKER}-id\n{{"event": "forged"}}',
    f"{MARKER}-id-\x1b[31m",
    f"{MARKER}-id-<script>",
    f"{MARKER}-id-\u202e",
)
FAULTS: dict[str, Json] = {
    "refusal that repeats the prompt": {
        "status": 400,
        "body": json.dumps({"error": {"message": f"bad prompt: {MARKER}-echo", "type": "x"}}),
    },
    "page of HTML": {"status": 500, "body": f"<html>{MARKER}-html</html>"},
    "refused key": {"status": 401, "body": f'{{"error": "no such key {PROVIDER_KEY}"}}'},
    "rate limit": {"status": 429, "body": f'{{"error": {{"message": "{MARKER}-limit"}}}}'},
    "error under status 200": {"status": 200, "body": f'{{"error": "{MARKER}-ok"}}'},
    "HTML under status 200": {"status": 200, "body": f"<html>{MARKER}-html-ok</html>"},
    "JSON cut short": {"status": 200, "body": f'{{"choices": [{{"message": "{MARKER}-cut'},
    "broken connection": {"reset": True},
    "answer cut off": {"cut_after_bytes": 40},
}
CALLED = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": json.dumps({"x": f"{MARKER}-argument"})},
}
TALK: list[Json] = [
    {"role": "user", "content": f"{MARKER}-prompt"},
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_1", "content": f"{MARKER}-tool-result"},
]
TALKED: Json = {"messages": TALK, "user": f"{MARKER}-user", "metadata": {"k": f"{MARKER}-metadata"}}
CHECKED = "alter table {table} add constraint checked check (model <> '{model}') not valid"
UNCHECKED = "alter table {table} drop constraint checked"


@pytest.fixture(scope="module")
def logging_stack(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("config") / "carpool.toml"
    config.write_text(cloud(served, PROVIDER_KEY))
    env = {
        "CARPOOL_CONFIG": str(config),
        "CARPOOL_LOG_JSON": "true",
        "CARPOOL_MAX_ATTEMPTS": "1",
        "CARPOOL_LEASE_SECONDS": "3",
        "CARPOOL_GRACE_SECONDS": "0.5",
    }
    with stack_in_temporary_directory(env) as started:
        yield started


@pytest_asyncio.fixture
async def planted(logging_stack: Stack) -> AsyncIterator[Requests]:
    """The requests of a team of its own; after the test its texts are in no log."""
    key = await logging_stack.new_key(f"team-{uuid4().hex}", owner=f"{MARKER}-owner")
    async with logging_stack.http(key.secret) as http:
        yield Requests(http)
    keys = (key.secret, logging_stack.api_key, logging_stack.admin_key, PROVIDER_KEY)
    printed = _logs(logging_stack)
    assert not [text for text in (MARKER, *keys) if text in printed], _around(printed)


def _logs(stack: Stack) -> str:
    """All that was logged, but for the keys that `up` tells the person who starts it."""
    files = sorted((stack.directory / "logs").glob("*.log"))
    assert {file.stem for file in files} >= {"postgres", "valkey"}
    told, ready, logged = stack.output().partition(READY_LINE)
    assert ready
    early = [line for line in told.splitlines() if line.startswith("{")]
    return "\n".join([*early, logged, *(file.read_text() for file in files)])


def _around(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if MARKER in line or "sk-" in line]


def _events(stack: Stack) -> list[Json]:
    """The log lines of our own processes."""
    whole, _, _ = stack.output().rpartition("\n")  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


async def _logged(stack: Stack, event: str, **fields: Any) -> Json:
    """The first line of an event with such fields, once there is one."""

    async def look() -> Json | None:
        return next(
            (
                found
                for found in _events(stack)
                if found["event"] == event and fields.items() <= found.items()
            ),
            None,
        )

    return await eventually(look)


@asynccontextmanager
async def _refusing(stack: Stack, table: str, model: str) -> AsyncIterator[None]:
    """Let Postgres refuse each new row of a table for a model, and show the row as it does so."""
    await stack.fetch(CHECKED.format(table=table, model=model))
    try:
        yield
    finally:
        await stack.fetch(UNCHECKED.format(table=table))


async def _ask(requests: Requests, path: str = "/chat/completions", **changes: Any) -> int:
    answer = await requests.http.post(path, json=CHAT | TALKED | changes)
    return answer.status_code


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [MODEL, CLOUD])
async def test_success(planted: Requests, double: Double, model: str, stream: bool) -> None:
    answer = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": f"{MARKER}-answer"}}]
    }
    if not stream:
        await double.fault(PATH, status=200, body=json.dumps(answer))
    assert await _ask(planted, model=model, stream=stream) == 200
    assert await _ask(planted, "/completions", model=model, prompt=f"{MARKER}-text") == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_provider_answers_in_error(
    planted: Requests, double: Double, fault: str, stream: bool
) -> None:
    await double.fault(PATH, times=1, **FAULTS[fault])
    assert await _ask(planted, model=CLOUD, stream=stream) in (200, 400, 500, 502, 429)
    # A success between the failures, so that the provider is not left alone for them.
    assert await _ask(planted, model=CLOUD) == 200


async def test_what_a_failed_attempt_says_of_itself(
    logging_stack: Stack, planted: Requests
) -> None:
    """Which request, team, run and backend, and why; by the ids that clients see."""
    body = CHAT | {"carpool_simulate": {"status": 503}}
    answer = await planted.http.post("/chat/completions", json=body)
    line = await _logged(
        logging_stack, "attempt_failed", request=answer.headers["x-request-id"], status=503
    )
    assert line["level"] == "warning"
    assert isinstance(line["team"], int)
    assert line["run"].startswith("run_")
    assert line["backend"] == MODEL
    assert line["error"] == "simulated: failed with status 503, as asked"


async def test_bad_input(planted: Requests) -> None:
    """Of body, headers, path and query."""
    http = planted.http
    for content in (f'{{"{MARKER}', f'"{MARKER}"', f'{{"model": "{MARKER}", "messages": [1]}}'):
        assert (await http.post("/chat/completions", content=content)).status_code == 400
    odd = {b"idempotency-key": MARKER.encode() + b"-\xff", b"prefer": MARKER.encode()}
    await http.post("/chat/completions", json=CHAT, headers=odd)
    wrong = {"authorization": f"Bearer sk-{MARKER}-wrong"}
    assert (await http.post("/chat/completions", json=CHAT, headers=wrong)).status_code == 401
    for path in ("/requests", "/models", "/files", "/batches", f"/{MARKER}"):
        await http.get(f"{path}/{MARKER}-path", params={"after": f"{MARKER}-query"})
        await http.get(f"{path}/{MARKER}-path%00%ff")
    surrogate = b'{"model":"simulated","messages":[],"user":"planted-\\ud800"}'
    assert (await http.post("/chat/completions", content=surrogate)).status_code == 400


async def test_batches_with_hostile_lines(planted: Requests) -> None:
    """Good and bad lines, hostile custom_ids, and a file's name; to their end."""
    lines = [_line(name) for name in HOSTILE_IDS]
    good = await _batch(planted, lines)
    assert good["request_counts"]["completed"] == len(HOSTILE_IDS)
    bad = await _batch(planted, [*lines, lines[0], f"{MARKER}-no-json"])
    assert bad["status"] == "failed"
    odd = f'{{"custom_id": "{MARKER}-\\ud800", "method": "POST", "url": "{PATH}", "body": 1}}'
    assert (await _batch(planted, [lines[0], odd]))["status"] == "failed"


async def test_provider_batches(planted: Requests, double: Double) -> None:
    """Answered, refused line by line, and refused as a whole."""
    await double.auto(3600)
    refusal = f'{{"error": {{"message": "{MARKER}"}}}}'
    await _patiently(planted, "completed")
    await double.line_fault(MARKER, status=400, body=refusal)
    await _patiently(planted, "failed")
    await double.fault("/v1/batches", method="POST", status=400, body=refusal)
    await _patiently(planted, "failed")


async def test_rows_that_postgres_refuses(logging_stack: Stack, planted: Requests) -> None:
    """An error of the driver that shows the row: told by its code, in the API and the worker."""
    async with _refusing(logging_stack, "requests", CLOUD):
        assert await _ask(planted, model=CLOUD) == 500
    bug = await _logged(logging_stack, "unhandled_error", path=PATH)
    assert "sqlstate 23514" in bug["error"]
    assert "constraint_name checked" in bug["error"]
    assert any("admission.py" in place for place in bug["places"])
    assert bug["request"].startswith("req_")
    async with _refusing(logging_stack, "results", MODEL):
        left = await planted.leave(**TALKED)
        bug = await _logged(logging_stack, "backend_bug", request=left["id"])
    assert "sqlstate 23514" in bug["error"]
    await planted.cancel(left["id"])


async def test_a_worker_that_dies(logging_stack: Stack, planted: Requests) -> None:
    left = await planted.leave(carpool_simulate={"die": True}, **TALKED)
    found = await planted.get(left["id"], wait=20)
    if found["status"] != "failed":
        await planted.cancel(left["id"])
    await _logged(logging_stack, "runs_ended_by_sweep")
    pid = logging_stack.pid("api")
    assert await logging_stack.replace("api") != pid


async def test_each_line_is_json_with_event_level_and_time(
    logging_stack: Stack, planted: Requests
) -> None:
    """After all that went wrong before, and through the end of a process."""
    assert await _ask(planted) == 200
    await logging_stack.replace("worker simulated-1", signal.SIGTERM)
    await _logged(logging_stack, "run_ended")
    _, _, logged = logging_stack.output().partition(f"{READY_LINE}.\n")
    others = [line for line in logged.splitlines() if line.strip() and not line.startswith("{")]
    assert not [line for line in others if not line.startswith(SAID_BY_UP)]
    events = _events(logging_stack)
    assert len(events) > 10
    for event in events:
        assert event["level"] in ("info", "warning", "error")
        assert event["timestamp"].endswith("Z")
        assert event["event"].replace("_", "").isalpha(), event


async def _patiently(requests: Requests, status: str) -> None:
    """Return when a request that goes by a provider batch has ended so."""
    left = await requests.leave(model=PATIENT, service_tier="flex", **TALKED)
    await requests.until(left["id"], status)


def _line(custom_id: str) -> str:
    body = {"model": MODEL} | TALKED
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH, "body": body})


async def _batch(requests: Requests, lines: list[str]) -> Json:
    """The batch object of such a file once it has ended."""
    content = ("\n".join(lines)).encode()
    files = {"file": (f"{MARKER}-file.jsonl", content)}
    file = await requests.http.post("/files", files=files, data={"purpose": "batch"})
    assert file.status_code == 200, file.text
    asked = {"input_file_id": file.json()["id"], "endpoint": PATH, "completion_window": "24h"}
    asked |= {"metadata": {"k": f"{MARKER}-metadata"}}
    made = (await requests.http.post("/batches", json=asked)).json()

    async def ended() -> Json | None:
        found: Json = (await requests.http.get(f"/batches/{made['id']}")).json()
        return found if found["status"] in ("completed", "failed") else None

    return await eventually(ended)
