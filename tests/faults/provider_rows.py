"""What tests of a patient way ask and look for: its configuration, statements and batches."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.batches import Batches, Json, line
from tests.clients import Requests
from tests.double.launch import Double
from tests.double.record import SeenResponse
from tests.double.settings import Changes
from tests.faults.worker import Worker
from tests.stack import END_SECONDS, Stack, eventually

MODEL = "patient"
NAME = "openai"
SPEED = 200.0
"""Of the double's clock: a batch of its 62 seconds, or a response of its 61, takes 0.3."""
CONFIG = """
[backends.patient]
kind = "openai_batch"
base_url = "{url}"
api_key = "sk-of-the-team"
gather_seconds = 0.3
poll_seconds = 0.1
{way}

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
OPEN = "select count(*) from provider_batches where state < 3"
NOTED = "select count(*) from provider_responses"
LEFT_OVER = "select count(*) from queue where owner_kind = 2"
FORGET = "delete from provider_batches where state = 3"
"""From the windows' times in other tests the planner must not learn."""
LIVE = "select count(distinct backend) from runs where ended_at is null"
HURRY = "update batches set expires_at = now() + interval '300 s' where id = $1::uuid"
LATE = "update provider_batches set deadline = now() + interval '300 s' where state < 3"
TRIES = """
select a.error from attempts a join requests r on r.id = a.id where r.batch_id = $1::uuid
"""
RESPONSES, ANY, ANY_CANCEL = "/v1/responses", "/v1/responses/resp_*", "/v1/responses/*/cancel"
ANSWERS = """
select r.id, r.body as asked, s.outcome, s.status_code, s.body, s.backend, s.paid, s.saved_window,
    p.completion_window, p.background
from requests r join results s on s.id = r.id left join provider_batches p on p.id = s.run_id
where r.batch_id = $1::uuid
"""
SEEN_WINDOW = """
select count(*) from provider_batches
where state = 3 and background and provider_status = $1 and ended_at > submitted_at
"""
AT_ONCE = 16
"""Responses that a worker creates at once: so many may be in doubt when it is killed."""
TRIED = "update queue set attempts = 4 where owner_kind = 2"
"""One attempt is left."""
HTML: Json = {"status": 200, "body": "<html><body>Please sign in.</body></html>"}


@dataclass(frozen=True, slots=True)
class Way:
    """How the backend's rows go: its settings, and those of the double."""

    settings: str
    double: Changes


BY_FILE = Way(
    """
max_lines = 2000
max_bytes = 300000
max_enqueued_tokens = 100000
windows = { "24h" = 0.5, "2h" = 0.7 }
""",
    {"windows": ["24h", "2h"], "batch_file_lines": 2000, "batch_file_bytes": 300_000},
)
BY_RESPONSE = Way('background_windows = { "8h" = 0.6, "2h" = 0.7 }', {})


async def until(stack: Stack, query: str, value: Any) -> None:
    """Return once a query's first column is this."""

    async def reached() -> bool:
        return bool(await stack.value(query) == value)

    await eventually(reached, END_SECONDS)


def lines(number: int, **changes: Any) -> list[Json]:
    """So many lines; what each asks names it, and has an equal as a response."""
    return [line(f"r{n}", body={"model": MODEL, "max_tokens": 64} | changes) for n in range(number)]


def names(number: int) -> list[str]:
    return [f"r{n}" for n in range(number)]


@asynccontextmanager
async def batches_of(stack: Stack) -> AsyncIterator[Batches]:
    async with stack.http() as http:
        yield Batches(http)


async def ended(batches: Batches, batch: Json, number: int, failed: int = 0) -> list[Json]:
    """Wait for a batch's end, with each custom_id once in its files; the lines of both."""
    seen = await batches.ended(batch["id"])
    assert seen["status"] == "completed", seen
    output, error = await batches.proven(seen, names(number))
    assert (len(output), len(error)) == (number - failed, failed)
    return output + error


async def create(batches: Batches, content: list[Json], window: str = "8h") -> Json:
    """A batch that has so much time."""
    return await batches.create(content, completion_window=window)


async def flex(http: httpx.AsyncClient, number: int) -> Json:
    """Leave a flex chat to be answered later."""
    messages = [{"role": "user", "content": f"Who is f{number}?"}]
    return await Requests(http).leave(model=MODEL, messages=messages, service_tier="flex")


async def made(double: Double) -> list[SeenResponse]:
    """The responses that the provider was asked for."""
    return (await double.seen()).responses


async def killed_while_held(
    worker: Worker, double: Double, following: tuple[str, Json] | None = None
) -> None:
    """Kill the worker while the provider holds a request of its, and start another.

    Before that one asks for anything, what was held is let go, and the next is to be held.
    """
    await double.until_held()
    worker.end()
    await double.release()
    if following is not None:
        path, hold = following
        await double.fault(path, **hold)
    worker.replace()


def of_requests(responses: list[SeenResponse]) -> Counter[str]:
    """How many of these each claim has."""
    return Counter((one.metadata or {})["carpool_request"] for one in responses)


def name_of(batch: Json) -> str:
    return str(batch["id"].removeprefix("batch_"))
