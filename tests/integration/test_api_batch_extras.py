"""Beyond OpenAI's Batch API: waiting, watching, partial results, retries, dry runs, priorities."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.batches import URL, Batches, Json, jsonl, line, lines
from tests.clients import FOREVER
from tests.stack import Stack, eventually, stack_in_temporary_directory

pytestmark = pytest.mark.usefixtures("quiet")

FAILING: Json = {"carpool_simulate": {"status": 422}}
SLOW: Json = {"carpool_simulate": {"milliseconds_per_token": 150}}
LIMITED = {"CARPOOL_MAX_ENQUEUED_TOKENS": "8000"}
PRICES = """
[backends.simulated]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0
slots = 1

[models.simulated]
backends = ["simulated"]

[[prices]]
model = "simulated"
since = 2026-01-01
input = 2
output = 8
"""


async def test_a_long_poll_ends_with_a_change(batches: Batches) -> None:
    batch = await batches.create([*lines(1), line("slow", body=FOREVER)])
    await batches.until(batch["id"], "in_progress")

    async def done() -> Json | None:
        found = await batches.get(batch["id"])
        return found if found["request_counts"]["completed"] == 1 else None

    await eventually(done)
    polling = asyncio.create_task(batches.get(batch["id"], wait=30))
    await batches.get(batch["id"])
    assert not polling.done()
    await batches.cancel(batch["id"])
    assert (await polling)["status"] in ("cancelling", "cancelled")


async def test_a_long_poll_ends_when_its_time_is_up(batches: Batches, parked: str) -> None:
    batch = await batches.create(lines(1, body={"model": parked}))
    await batches.until(batch["id"], "in_progress")
    began = time.monotonic()
    found = await batches.get(batch["id"], wait=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert found["status"] == "in_progress"
    await batches.cancel(batch["id"])


async def test_a_long_poll_of_an_ended_batch_is_answered_at_once(batches: Batches) -> None:
    batch = await batches.run(lines(1))
    began = time.monotonic()
    assert (await batches.get(batch["id"], wait=60))["status"] == "completed"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("wait", ["-1", "301", "soon", "nan"])
async def test_a_wait_that_is_none_is_refused(batches: Batches, wait: str) -> None:
    batch = await batches.of_file("file-1")
    answer = await batches.http.get(f"/batches/{batch['id']}", params={"wait": wait})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "wait"


async def test_events_tell_progress_to_the_end(batches: Batches) -> None:
    batch = await batches.create(lines(40, body=SLOW))
    told = []
    async with batches.http.stream("GET", f"/batches/{batch['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for event, data in _events(answer):
            assert event == f"batch.{data['status']}"
            told.append(data)
    assert told[-1]["status"] == "completed"
    assert told[-1]["progress"]["done"] == 40
    assert told[-1]["progress"]["eta_seconds"] in (0, None)
    assert [data["progress"]["done"] for data in told] == sorted(
        data["progress"]["done"] for data in told
    )


async def test_events_of_an_ended_batch_are_one(batches: Batches) -> None:
    batch = await batches.run(lines(1))
    async with batches.http.stream("GET", f"/batches/{batch['id']}/events") as answer:
        assert [event async for event, _ in _events(answer)] == ["batch.completed"]


async def test_results_come_while_it_runs_each_once(batches: Batches) -> None:
    """Of many pages, read while results are stored, no line is missing and none comes twice."""
    content = [*lines(500), *(line(f"bad{n}", body=FAILING) for n in range(20))]
    batch = await batches.create([*content, line("last", body=FOREVER)])
    found: list[Json] = []
    after = None
    while len(found) < 520:
        page, after, _ = await _page(batches, batch["id"], after, 37)
        found += page
    assert (await batches.get(batch["id"]))["status"] == "in_progress"
    assert sorted(item["custom_id"] for item in found) == sorted(c["custom_id"] for c in content)
    assert {i["response"]["status_code"] for i in found if i["custom_id"][0] == "b"} == {422}
    await batches.cancel(batch["id"])
    await batches.ended(batch["id"])
    [last], after, more = await _page(batches, batch["id"], after, 37)
    assert (last["custom_id"], last["error"]["code"]) == ("last", "batch_cancelled")
    assert not more
    assert await _page(batches, batch["id"], after, 37) == ([], after, False)
    everything, _, more = await _page(batches, batch["id"], None, 520)
    assert (len(everything), more) == (520, True)


@pytest.mark.parametrize(
    ("query", "param"),
    [("after=x", "after"), ("after=e30=", "after"), ("limit=0", "limit"), ("limit=10001", "limit")],
)
async def test_a_page_of_results_that_cannot_be(batches: Batches, query: str, param: str) -> None:
    batch = await batches.of_file("file-1")
    answer = await batches.http.get(f"/batches/{batch['id']}/results?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_a_retry_is_a_batch_of_the_failed_lines_alone(batches: Batches) -> None:
    odd = "odd\n\u0000"
    content = [*lines(3), line(odd, body=FAILING), line("bad", body=FAILING)]
    first = await batches.run(content, metadata={"run": "7"}, completion_window="2h")
    again = await batches.ask("POST", f"/batches/{first['id']}/retry")
    assert again["id"] != first["id"]
    assert (again["metadata"], again["completion_window"]) == ({"run": "7"}, "2h")
    ended = await batches.ended(again["id"])
    await batches.proven(ended, [odd, "bad"])
    asked = await batches.file(ended["input_file_id"])
    assert asked == content[3:]


async def test_a_retry_of_a_cancelled_batch_takes_what_was_never_queued(
    stack: Stack, batches: Batches, parked: str
) -> None:
    batch = await batches.create(lines(20_000, body={"model": parked}))
    await batches.until(batch["id"], "in_progress")
    await batches.cancel(batch["id"])
    ended = await batches.ended(batch["id"])
    await batches.proven(ended, [f"r{n}" for n in range(20_000)])
    again = await batches.ask("POST", f"/batches/{batch['id']}/retry")
    asked = await batches.file(again["input_file_id"])
    assert [item["custom_id"] for item in asked] == [f"r{n}" for n in range(20_000)]
    await batches.cancel(again["id"])
    await batches.ended(again["id"])


async def test_a_retry_without_anything_to_retry(batches: Batches, parked: str) -> None:
    done = await batches.run(lines(1))
    answer = await batches.http.post(f"/batches/{done['id']}/retry")
    assert answer.status_code == 400
    running = await batches.create(lines(1, body={"model": parked}))
    answer = await batches.http.post(f"/batches/{running['id']}/retry")
    assert answer.status_code == 409
    await batches.cancel(running["id"])
    await batches.ended(running["id"])


async def test_a_dry_run_judges_and_starts_nothing(stack: Stack, batches: Batches) -> None:
    content = jsonl(lines(3))
    file = await batches.upload(content)
    found = await _dry_run(batches, file)
    assert (found["object"], found["valid"], found["errors"]) == ("batch.dry_run", True, None)
    assert (found["model"], found["request_counts"]["total"]) == ("simulated", 3)
    assert found["file_bytes"] == len(content)
    assert found["tokens"]["max_output"] == 6
    assert found["tokens"]["counted_by"] == "estimate"
    assert found["tokens"]["input"] > 10
    assert found["price"] is None
    broken = await batches.upload(jsonl(lines(1)) + b"no json\n")
    refused = await _dry_run(batches, broken)
    assert refused["valid"] is False
    [error] = refused["errors"]["data"]
    assert (error["code"], error["line"]) == ("invalid_json_line", 2)
    assert (await batches.ask("GET", "/batches"))["data"] == []
    assert await stack.value("select count(*) from batches where dry_run") == 0


async def test_a_dry_run_knows_the_pace(batches: Batches) -> None:
    """Of two batches, for the lines of one may have ended all at the same moment."""
    for _ in range(2):
        await batches.run(lines(25))
    found = await _dry_run(batches, await batches.upload(lines(100)))
    assert found["seconds"] >= 1


async def test_prices_priorities_and_limits_of_a_stack_with_one_slot(tmp_path: Any) -> None:
    """Of batches of a team that wait the one of the highest priority goes first, whichever came."""
    config = tmp_path / "carpool.toml"
    config.write_text(PRICES)
    options = ("--config", str(config))
    with stack_in_temporary_directory(LIMITED, options=options) as stack:
        async with stack.http() as http:
            batches = Batches(http)
            found = await _dry_run(batches, await batches.upload(lines(1000)))
            tokens = found["tokens"]
            expected = (tokens["input"] * 2 + 2000 * 8) / 1_000_000
            assert found["price"] == {"currency": "USD", "amount": pytest.approx(expected)}
            await stack.route("later", "nowhere")
            later: Json = {"model": "later"}
            low = await batches.create(lines(60, body=later), priority=-5)
            usual = await batches.create(lines(20, body=later))
            high = await batches.create(lines(20, body=later), priority=5)
            assert (low["priority"], usual["priority"], high["priority"]) == (-5, 0, 5)

            async def all_wait() -> bool:
                return bool(await stack.value("select count(*) from queue") == 100)

            await eventually(all_wait)
            await stack.route("later", "simulated")
            ended = [await batches.ended(batch["id"]) for batch in (low, usual, high)]
            assert [batch["status"] for batch in ended] == ["completed"] * 3
            await _refused_for_its_tokens(batches)
        order = await stack.fetch(
            "select batch_id, max(started_at) as last from results where outcome = 0 "
            "group by 1 order by 2"
        )
        names = [f"batch_{row['batch_id'].hex}" for row in order]
        assert names == [high["id"], usual["id"], low["id"]]


async def _refused_for_its_tokens(batches: Batches) -> None:
    """Open batches of a team and a model may hold so many tokens together; ended ones count not."""
    half = lines(150, body={"messages": [{"role": "user", "content": "x" * 100}]} | FOREVER)
    first = await batches.create(half)
    await batches.until(first["id"], "in_progress")
    second = await batches.ended((await batches.create(half))["id"])
    assert second["status"] == "failed"
    [error] = second["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == ("token_limit_exceeded", None, None)
    assert error["message"].startswith("Enqueued token limit reached for simulated in ")
    await batches.cancel(first["id"])
    await batches.ended(first["id"])
    third = await batches.create(half)
    await batches.until(third["id"], "in_progress")
    await batches.cancel(third["id"])
    await batches.ended(third["id"])


async def _dry_run(batches: Batches, file: str) -> Json:
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
    return await batches.ask("POST", "/batches?dry_run=true", json=body)


async def _page(
    batches: Batches, batch: str, after: str | None, limit: int
) -> tuple[list[Json], str, bool]:
    query = {"limit": str(limit)} | ({} if after is None else {"after": after})
    answer = await batches.http.get(f"/batches/{batch}/results", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/jsonl")
    items = [json.loads(text) for text in answer.content.splitlines()]
    return items, answer.headers["x-next-after"], answer.headers["x-has-more"] == "true"


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    event = ""
    async for text in answer.aiter_lines():
        if text.startswith("event: "):
            event = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield event, json.loads(text.removeprefix("data: "))
