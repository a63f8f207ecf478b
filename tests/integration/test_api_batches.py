"""OpenAI's Batch API, as the stock client knows it: every status, counter, file and refusal."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from openai import BadRequestError, ConflictError, NotFoundError
from openai.types import Batch
from openai.types.chat import ChatCompletion

from db.keys import NewKey
from tests.batches import URL, Batches, Json, jsonl, line, lines
from tests.stack import FOREVER, Stack, Stock, eventually

pytestmark = pytest.mark.usefixtures("quiet")

WINDOW: Any = "24h"
FAILING: Json = {"carpool_simulate": {"status": 422}}


@pytest.fixture
async def batches(stack: Stack, team: NewKey) -> AsyncIterator[Batches]:
    """`/v1/batches` of the test's team."""
    async with stack.http(team.secret) as http:
        yield Batches(http)


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


async def test_blank_lines_crlf_a_bom_and_no_last_newline(batches: Batches) -> None:
    texts = [json.dumps(item).encode() for item in lines(3)]
    content = b"\xef\xbb\xbf\r\n" + texts[0] + b"\r\n\n  \n" + texts[1] + b"\n" + texts[2]
    batch = await batches.run(content)
    assert batch["request_counts"]["total"] == 3
    await batches.proven(batch, ["r0", "r1", "r2"])


async def test_custom_ids_of_any_kind_come_back(batches: Batches) -> None:
    odd = ["a\nb", "x" * 10_000, "\u0000", '"\\', "\u2028 \U0001f697", " ", "\ufeff"]
    batch = await batches.run([line(custom_id) for custom_id in odd])
    await batches.proven(batch, odd)


@pytest.mark.parametrize("pieces", [1, 3, 7])
async def test_a_character_split_over_pieces_of_the_upload(batches: Batches, pieces: int) -> None:
    item = line("r", body={"messages": [{"role": "user", "content": "\u00fc\U0001f697" * 3000}]})
    data = json.dumps(item, ensure_ascii=False).encode()

    async def body() -> AsyncIterator[bytes]:
        yield b'--e\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--e\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for start in range(0, len(data), 1009 * pieces):
            yield data[start : start + 1009 * pieces]
        yield b"\r\n--e--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=e"}
    made = await batches.http.post("/files", content=body(), headers=headers)
    batch = await batches.ended((await batches.of_file(made.json()["id"]))["id"])
    await batches.proven(batch, ["r"])


@pytest.mark.parametrize(
    ("second", "code", "param"),
    [
        (b"no json", "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        ({"method": "POST", "url": URL, "body": {}}, "missing_required_parameter", "custom_id"),
        (line("b", body={"model": None}), "invalid_request", "body.model"),
        (line("b") | {"body": {"model": "simulated"}}, "invalid_request", "body.messages"),
        (line("b", body={"user": "a\0"}), "invalid_request", "body"),
        (line("b", url="/v1/embeddings"), "invalid_url", "url"),
        (line("b", body={"model": "nowhere"}), "model_not_found", "body.model"),
        (line("b", body={"stream": True}), "streaming_unsupported", "body.stream"),
        (line("b", body={"model": "parked"}), "mismatched_model", "body.model"),
        (line("r0"), "duplicate_custom_id", "custom_id"),
    ],
    ids=range(11),
)
@pytest.mark.usefixtures("parked")
async def test_an_invalid_line_fails_the_batch_and_nothing_of_it_runs(
    stack: Stack, batches: Batches, second: bytes | Json, code: str, param: str | None
) -> None:
    text = second if isinstance(second, bytes) else json.dumps(second).encode()
    batch = await batches.run(jsonl(lines(1)) + text + b"\n")
    assert batch["status"] == "failed"
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["failed_at"] is not None
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    [error] = batch["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == (code, 2, param)
    Batch.model_validate(batch)
    identifier = batch["id"].removeprefix("batch_")
    assert not await stack.value(
        "select count(*) from requests where batch_id = $1::uuid", identifier
    )


async def test_many_errors_are_reported_up_to_a_number(batches: Batches) -> None:
    batch = await batches.run(jsonl(lines(1)) + b"x\n" * 300)
    assert [error["line"] for error in batch["errors"]["data"]] == list(range(2, 102))


async def test_a_file_that_is_not_there(batches: Batches, stack: Stack) -> None:
    other = await stack.new_key("strangers to batches")
    async with stack.http(other.secret) as http:
        foreign = await Batches(http).upload(lines(1))
    wrong = await batches.upload(b"any", purpose="user_data")
    deleted = await batches.upload(lines(1))
    await batches.ask("DELETE", f"/files/{deleted}")
    for file in (foreign, wrong, deleted, "file-1", "", "x" * 5000, "file-\0", "file-" + "0" * 32):
        batch = await batches.ended((await batches.of_file(file))["id"])
        assert batch["status"] == "failed"
        [error] = batch["errors"]["data"]
        assert (error["code"], error["line"], error["param"]) == (
            "invalid_request",
            None,
            "file_id",
        )
        assert error["message"].startswith("Cannot find file ")


async def test_a_file_deleted_while_its_batch_runs(batches: Batches) -> None:
    file = await batches.upload(lines(50))
    batch = await batches.of_file(file)
    await batches.ask("DELETE", f"/files/{file}")
    assert (await batches.http.get(f"/files/{file}")).status_code == 404
    ended = await batches.ended(batch["id"])
    assert (ended["status"], ended["input_file_id"]) == ("completed", file)
    await batches.proven(ended, [f"r{n}" for n in range(50)])


async def test_50_001_lines(batches: Batches) -> None:
    batch = await batches.run(jsonl([line("r")])[:-1].replace(b'"r"', b'"%d"') % 0 + b"\n" * 2)
    assert batch["status"] == "completed"
    text = json.dumps(line("N")).encode() + b"\n"
    batch = await batches.run(b"".join(text.replace(b'"N"', b'"%d"' % n) for n in range(50_001)))
    assert batch["status"] == "failed"
    assert [(e["code"], e["line"]) for e in batch["errors"]["data"]] == [("too_many_tasks", None)]


async def test_a_line_over_the_limit(batches: Batches) -> None:
    huge = line("b", body={"messages": [{"role": "user", "content": "x" * 10_000_000}]})
    batch = await batches.run([*lines(1), huge])
    [error] = batch["errors"]["data"]
    assert (error["code"], error["line"]) == ("request_too_large", 2)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"endpoint": "/v1/nothing"}, "endpoint", "invalid_value"),
        ({"endpoint": 7}, "endpoint", "invalid_type"),
        ({"endpoint": None}, "endpoint", "invalid_type"),
        ({"completion_window": "soon"}, "completion_window", "invalid_value"),
        ({"completion_window": "31d"}, "completion_window", "invalid_value"),
        ({"completion_window": 24}, "completion_window", "invalid_type"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_type"),
        (
            {"output_expires_after": {"seconds": 3600}},
            "output_expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
        (
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            "output_expires_after.anchor",
            "invalid_value",
        ),
        ({"priority": 101}, "priority", "invalid_value"),
        ({"priority": "high"}, "priority", "invalid_type"),
        ({"input_file_id": 7}, "input_file_id", "invalid_type"),
    ],
    ids=range(16),
)
async def test_a_creation_that_is_wrong(stock: Stock, changes: Json, param: str, code: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": URL, "completion_window": "24h"} | changes
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.post("/batches", cast_to=object, body=body))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert await stock(lambda c: c.batches.list()) == []


@pytest.mark.parametrize("missing", ["input_file_id", "endpoint", "completion_window"])
async def test_a_creation_without(stock: Stock, missing: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": URL, "completion_window": "24h"}
    del body[missing]
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.post("/batches", cast_to=object, body=body))
    assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")
    assert caught.value.message.endswith(f"Missing required parameter: '{missing}'.")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
async def test_a_creation_that_is_no_object(batches: Batches, content: bytes) -> None:
    answer = await batches.http.post("/batches", content=content)
    assert answer.status_code == 400


async def test_a_batch_is_its_teams(stack: Stack, batches: Batches) -> None:
    batch = await batches.run(lines(1))
    other = await stack.new_key("strangers to a batch")
    async with stack.http(other.secret) as http:
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
    assert (told.status, told.cancelling_at is not None) == ("cancelling", True)
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


async def test_the_window_ends_and_what_is_done_is_kept(batches: Batches) -> None:
    slow = [line(f"s{n}", body=FOREVER) for n in range(150)]
    batch = await batches.create([*lines(5), *slow], completion_window="2s")
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
async def test_without_a_worker_a_batch_still_ends(batches: Batches, parked: str, end: str) -> None:
    content = lines(3000, body={"model": parked})
    batch = await batches.create(content, completion_window="1s" if end == "expire" else "24h")
    await batches.until(batch["id"], "in_progress", "finalizing", "expired")
    if end == "cancel":
        await batches.cancel(batch["id"])
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
        assert found["expires_at"] - found["created_at"] == pytest.approx(7200, abs=2)


async def test_a_retry_of_the_creation_gets_the_batch_that_nobody_was_told_of(
    stack: Stack, batches: Batches
) -> None:
    file = await batches.upload(lines(1))
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
    first = (await batches.http.post("/batches", json=body)).json()

    async def send(retry: str) -> str:
        headers = {"x-stainless-retry-count": retry}
        answer = await batches.http.post("/batches", json=body, headers=headers)
        return str(answer.json()["id"])

    async def noted() -> bool:
        query = "select count(*) from deliveries where id = $1::uuid"
        return bool(await stack.value(query, first["id"].removeprefix("batch_")))

    await eventually(noted)
    assert await send("1") != first["id"]
    forgotten = (await batches.http.post("/batches", json=body)).json()["id"]
    query = "delete from deliveries where id = $1::uuid returning 1"
    await eventually(lambda: stack.value(query, forgotten.removeprefix("batch_")))
    assert await send("0") != forgotten
    assert await send("1") == forgotten


async def test_a_key_names_one_batch(batches: Batches) -> None:
    file = await batches.upload(lines(1))
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}

    async def send(key: str, **changes: str) -> Any:
        return await batches.http.post(
            "/batches", json=body | changes, headers={"Idempotency-Key": key}
        )

    answers = await asyncio.gather(*(send("k") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    names = {answer.json()["id"] for answer in answers}
    assert len(names) == 1
    assert (await send("other")).json()["id"] not in names
    assert (await send("k", completion_window="2h")).status_code == 422
    assert (await send("")).status_code == 400
    assert len((await batches.ask("GET", "/batches"))["data"]) == 2


def _cancel(batch: str, client: Any) -> Any:
    return client.batches.cancel(batch)
