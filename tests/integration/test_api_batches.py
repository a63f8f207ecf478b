"""OpenAI's Batch API, as the stock client knows it: every status, counter, file and end."""

import json
from functools import partial
from typing import Any

import pytest
from openai import ConflictError, NotFoundError
from openai.types import Batch
from openai.types.chat import ChatCompletion

from db.keys import NewKey
from tests.batches import URL, Batches, Json, jsonl, line, lines
from tests.clients import FOREVER, Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

WINDOW: Any = "24h"
FAILING: Json = {"carpool_simulate": {"status": 422}}
OVER = "update batches set expires_at = now() where id = $1::uuid"
"""As if a batch's window were over."""


async def test_openais_guide_step_by_step(stock: Stock) -> None:
    """Upload, create, poll, download; all by the stock client."""
    content = jsonl(lines(3))
    file = await stock(lambda c: c.files.create(file=("batch.jsonl", content), purpose="batch"))
    made = await stock(
        lambda c: c.batches.create(
            input_file_id=file.id,
            endpoint=URL,
            completion_window=WINDOW,
            metadata={"description": "nightly eval job"},
        )
    )
    Batch.model_validate(made.model_dump(), strict=True)
    assert (made.object, made.endpoint, made.completion_window) == ("batch", URL, "24h")
    assert made.expires_at - made.created_at == 86_400
    assert made.metadata == {"description": "nightly eval job"}

    async def ended() -> Any:
        found = await stock(lambda c: c.batches.retrieve(made.id))
        return found if found.status == "completed" else None

    batch = await eventually(ended)
    Batch.model_validate(batch.model_dump(), strict=True)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert (batch.failed_at, batch.cancelled_at, batch.expired_at) == (None, None, None)
    assert (batch.model, batch.errors, batch.error_file_id) == ("simulated", None, None)
    assert batch.usage.output_tokens == 6
    assert batch.usage.total_tokens == batch.usage.input_tokens + 6
    got = await stock(lambda c: c.files.content(batch.output_file_id))
    results = [json.loads(text) for text in got.text.splitlines()]
    assert [result["custom_id"] for result in results] == ["r0", "r1", "r2"]
    for result in results:
        assert result["id"].startswith("batch_req_")
        assert result["error"] is None
        assert result["response"]["status_code"] == 200
        ChatCompletion.model_validate(result["response"]["body"])
    output = await stock(lambda c: c.files.retrieve(batch.output_file_id))
    assert (output.purpose, output.bytes) == ("batch_output", len(got.content))
    assert [item.id for item in await stock(lambda c: c.batches.list())] == [batch.id]


async def test_what_fails_stands_in_the_error_file(batches: Batches) -> None:
    content = [*lines(2), line("bad", body=FAILING), line("worse", body=FAILING)]
    batch = await batches.run(content)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    _, error = await batches.proven(batch, ["r0", "r1", "bad", "worse"])
    assert {item["response"]["status_code"] for item in error} == {422}
    assert {item["error"] for item in error} == {None}
    assert error[0]["response"]["body"]["error"]["code"] == "simulated"


async def test_where_nothing_succeeds_there_is_no_output_file(batches: Batches) -> None:
    batch = await batches.run(lines(2, body=FAILING))
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    await batches.proven(batch, ["r0", "r1"])


async def test_a_body_that_only_the_engine_refuses_fails_alone(batches: Batches) -> None:
    batch = await batches.run([line("hot", body={"max_tokens": "many"}), line("cool")])
    _, [error] = await batches.proven(batch, ["hot", "cool"])
    assert error["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": "simulated", "prompt": "Who?", "max_tokens": 2}),
        ("/v1/embeddings", {"model": "simulated", "input": ["a", "b"]}),
    ],
)
async def test_the_other_endpoints(batches: Batches, endpoint: str, body: Json) -> None:
    content = [{"custom_id": "a", "method": "POST", "url": endpoint, "body": body}]
    batch = await batches.run(content, endpoint=endpoint)
    [output], _ = await batches.proven(batch, ["a"])
    assert output["response"]["body"]["object"] in ("text_completion", "list")


async def test_a_batch_is_its_teams(stack: Stack, batches: Batches, strangers: NewKey) -> None:
    batch = await batches.run(lines(1))
    async with stack.http(strangers.secret) as http:
        for method, path in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("GET", "/events"),
            ("GET", "/results"),
            ("POST", "/retry"),
        ):
            answer = await http.request(method, f"/batches/{batch['id']}{path}")
            assert answer.status_code == 404, path
        assert (await http.get("/batches")).json()["data"] == []
        output = f"/files/{batch['output_file_id']}/content"
        assert (await http.get(output)).status_code == 404


async def test_the_list_is_paged_by_id(stock: Stock, batches: Batches) -> None:
    made = [(await batches.of_file("file-1"))["id"] for _ in range(5)]
    assert [item.id for item in await stock(lambda c: c.batches.list(limit=2))] == made[::-1]
    page = await batches.ask("GET", "/batches", params={"limit": 2})
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[3], True)


@pytest.mark.parametrize("identifier", ["batch_1", "batch_" + "0" * 32, "x", "batch_%00"])
async def test_a_batch_that_is_not_there(stock: Stock, identifier: str) -> None:
    with pytest.raises(NotFoundError):
        await stock(lambda c: c.batches.retrieve(identifier))
    with pytest.raises(NotFoundError):
        await stock(lambda c: c.batches.cancel(identifier))


async def test_a_cancel_is_seen_at_once_and_ends_what_runs(
    stack: Stack, stock: Stock, batches: Batches
) -> None:
    quick, slow = lines(5), [line(f"s{n}", body=FOREVER) for n in range(150)]
    batch = await batches.create([*quick, *slow])

    async def quick_done() -> bool:
        return bool((await batches.get(batch["id"]))["request_counts"]["completed"] == 5)

    await eventually(quick_done)
    told = await stock(lambda c: c.batches.cancel(batch["id"]))
    assert told.status in ("cancelling", "cancelled")
    assert told.cancelling_at is not None
    assert (await batches.get(batch["id"]))["status"] in ("cancelling", "cancelled")
    ended = await batches.ended(batch["id"])
    assert ended["status"] == "cancelled"
    assert ended["cancelled_at"] >= ended["cancelling_at"]
    ids = [item["custom_id"] for item in (*quick, *slow)]
    _, error = await batches.proven(ended, ids)
    assert {item["error"]["code"] for item in error} == {"batch_cancelled"}
    assert {item["response"] for item in error} == {None}
    await stack.nothing_in_flight()
    again = await stock(lambda c: c.batches.cancel(batch["id"]))
    assert again.status == "cancelled"


async def test_what_has_ended_cannot_be_cancelled(stock: Stock, batches: Batches) -> None:
    done = await batches.run(lines(1))
    invalid = await batches.run(b'{"no": "line"}\n')
    for batch in (done, invalid):
        with pytest.raises(ConflictError) as caught:
            await stock(partial(_cancel, batch["id"]))
        assert f"Cannot cancel a batch with status '{batch['status']}'." in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"


async def test_the_window_ends_and_what_is_done_is_kept(stack: Stack, batches: Batches) -> None:
    slow = [line(f"s{n}", body=FOREVER) for n in range(150)]
    batch = await batches.create([*lines(5), *slow], completion_window="2h")
    assert batch["expires_at"] - batch["created_at"] == 7200

    async def quick_done() -> bool:
        return bool((await batches.get(batch["id"]))["request_counts"]["completed"] == 5)

    await eventually(quick_done)
    await _end_window(stack, batch)
    ended = await batches.ended(batch["id"])
    assert ended["status"] == "expired"
    assert ended["expired_at"] >= ended["expires_at"]
    assert ended["request_counts"]["completed"] == 5
    ids = [*(f"r{n}" for n in range(5)), *(f"s{n}" for n in range(150))]
    _, error = await batches.proven(ended, ids)
    assert {item["error"]["code"] for item in error} == {"batch_expired"}
    assert error[0]["error"]["message"] == (
        "This request could not be executed before the completion window expired."
    )
    again = await batches.http.post(f"/batches/{batch['id']}/cancel")
    assert again.status_code == 409


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_without_a_worker_a_batch_still_ends(
    stack: Stack, batches: Batches, parked: str, end: str
) -> None:
    batch = await batches.create(lines(3000, body={"model": parked}))
    await batches.until(batch["id"], "in_progress")
    if end == "cancel":
        await batches.cancel(batch["id"])
    else:
        await _end_window(stack, batch)
    ended = await batches.ended(batch["id"])
    assert ended["status"] == ("cancelled" if end == "cancel" else "expired")
    await batches.proven(ended, [f"r{n}" for n in range(3000)])


async def test_output_files_expire_when_their_owner_says(batches: Batches) -> None:
    batch = await batches.run(
        [*lines(1), line("bad", body=FAILING)],
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    for file in (batch["output_file_id"], batch["error_file_id"]):
        found = await batches.ask("GET", f"/files/{file}")
        assert found["expires_at"] - found["created_at"] == pytest.approx(7200, abs=60)


async def _end_window(stack: Stack, batch: Json) -> None:
    await stack.fetch(OVER, batch["id"].removeprefix("batch_"))


def _cancel(batch: str, client: Any) -> Any:
    return client.batches.cancel(batch)
