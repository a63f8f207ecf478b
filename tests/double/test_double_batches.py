"""The double's files and batches keep the rules of COMPAT.md, sections 1 and 2."""

import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from tests.double.asking import (
    CHAT,
    MODEL,
    body,
    create,
    entries,
    ids,
    jsonl,
    line,
    upload,
)
from tests.double.launch import Double

DAY_SECONDS = 24 * 3600
DONE_SECONDS = 62
"""Validating 1, running 60, finalizing 1."""


async def turned(double: Double, client: AsyncOpenAI, batch: Batch, seconds: float) -> Batch:
    """The batch after so many seconds."""
    await double.advance(seconds)
    return await client.batches.retrieve(batch.id)


def counts(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    made = batch.request_counts
    return (made.total, made.completed, made.failed)


async def test_a_file_is_kept_as_it_came(client: AsyncOpenAI) -> None:
    """Bytes, name and purpose; raw bytes are called `upload`; deleted, it is 404."""
    content = jsonl([line("a")])
    file = await client.files.create(file=content, purpose="batch")
    assert (file.bytes, file.filename, file.status) == (len(content), "upload", "processed")
    assert file.expires_at == file.created_at + 30 * DAY_SECONDS
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).content == content
    assert (await client.files.delete(file.id)).deleted
    for call in (client.files.retrieve(file.id), client.files.content(file.id)):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await call


async def test_files_are_listed_by_cursor_and_purpose(client: AsyncOpenAI) -> None:
    """The newest first; `after` is an id; the stock client's paging finds each once."""
    made = [await upload(client, [line(str(n))]) for n in range(5)]
    other = await client.files.create(file=b"text", purpose="user_data")
    assert [f.id async for f in client.files.list(limit=2, purpose="batch")] == made[::-1]
    assert [f.id async for f in client.files.list(limit=4, order="asc")] == [*made, other.id]
    page = await client.files.list(after=made[1], order="asc", limit=2)
    assert [file.id for file in page.data] == made[2:4]
    assert page.has_more


async def test_a_file_expires_by_the_clock(double: Double, client: AsyncOpenAI) -> None:
    """After the seconds that were asked for."""
    file = await client.files.create(
        file=b"text", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    await double.advance(3599)
    await client.files.retrieve(file.id)
    await double.advance(1)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


@pytest.mark.parametrize("content", [b"", b"not json\n", b"[1]\n"])
async def test_a_file_that_is_none_is_refused(client: AsyncOpenAI, content: bytes) -> None:
    """An empty one, or one whose first line is malformed."""
    with pytest.raises(openai.BadRequestError):
        await client.files.create(file=content, purpose="batch")


async def test_files_have_their_limits(double: Double, client: AsyncOpenAI) -> None:
    """200 MB at the upload; 50,000 lines when the batch is validated."""
    await double.configure(batch_file_bytes=100)
    with pytest.raises(openai.APIStatusError) as refused:
        await upload(client, b'{"a": 1}\n' + b" " * 92)
    assert refused.value.status_code == 413
    await upload(client, b'{"a": 1}\n' + b" " * 91)
    await double.reset()
    short = b'{"custom_id":1}\n'
    many = await turned(double, client, await create(client, short * 50_001), 1)
    assert many.errors is not None
    assert [error.code for error in many.errors.data or []] == ["too_many_tasks"]
    most = await turned(double, client, await create(client, short * 50_000), 1)
    assert most.errors is not None
    assert {error.code for error in most.errors.data or []} == {"missing_required_parameter"}


async def test_a_batch_goes_its_way_by_the_clock(double: Double, client: AsyncOpenAI) -> None:
    """validating, in_progress, finalizing, completed, each at its time; counts 0 until then."""
    batch = await create(client, 3, metadata={"ours": "7"})
    assert (batch.status, counts(batch), batch.model) == ("validating", (0, 0, 0), None)
    batch = await turned(double, client, batch, 1)
    assert (batch.status, counts(batch), batch.model) == ("in_progress", (3, 0, 0), MODEL)
    batch = await turned(double, client, batch, 59)
    assert (batch.status, counts(batch), batch.output_file_id) == ("in_progress", (3, 0, 0), None)
    batch = await turned(double, client, batch, 1)
    assert (batch.status, counts(batch), batch.output_file_id) == ("finalizing", (3, 3, 0), None)
    batch = await turned(double, client, batch, 1)
    assert (batch.status, batch.metadata) == ("completed", {"ours": "7"})
    start = batch.created_at
    assert (batch.in_progress_at, batch.finalizing_at, batch.completed_at, batch.expires_at) == (
        start + 1,
        start + 61,
        start + 62,
        start + DAY_SECONDS,
    )


async def test_one_long_turn_is_as_many_short_ones(double: Double, client: AsyncOpenAI) -> None:
    """What fell due on the way has the time at which it fell due."""
    batch = await turned(double, client, await create(client, 3), 5000)
    assert batch.completed_at == batch.created_at + DONE_SECONDS


async def test_each_line_has_its_own_answer(double: Double, client: AsyncOpenAI) -> None:
    """That of a live call, under its custom_id, in an order that is not the input's."""
    batch = await turned(double, client, await create(client, 3), DONE_SECONDS)
    output = await entries(client, batch.output_file_id)
    assert [entry["custom_id"] for entry in output] == ["r2", "r1", "r0"]
    for entry in output:
        assert entry["error"] is None
        assert entry["response"]["status_code"] == 200
        said = entry["response"]["body"]["choices"][0]["message"]["content"]
        assert said == double.text(body(entry["custom_id"]))
    assert batch.error_file_id is None
    assert batch.usage is not None
    usages = [entry["response"]["body"]["usage"] for entry in output]
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert (await double.seen()).lines == {"r0": 1, "r1": 1, "r2": 1}


@pytest.mark.parametrize(
    ("url", "changes", "field"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": "a"}, "data"),
        ("/v1/completions", {"model": MODEL, "prompt": "a"}, "choices"),
    ],
)
async def test_batches_of_other_endpoints(
    double: Double, client: AsyncOpenAI, url: str, changes: dict[str, Any], field: str
) -> None:
    """Embeddings and completions are answered as theirs."""
    batch = await create(client, [line("a", url=url, body=changes)], endpoint=url)
    batch = await turned(double, client, batch, DONE_SECONDS)
    (entry,) = await entries(client, batch.output_file_id)
    assert entry["response"]["body"][field]


async def test_lines_progress_at_a_rate(double: Double, client: AsyncOpenAI) -> None:
    """So many lines a second; the batch ends with the last."""
    await double.configure(lines_per_second=2)
    batch = await turned(double, client, await create(client, 10), 1)
    assert counts(await turned(double, client, batch, 1.5)) == (10, 3, 0)
    assert len((await double.seen()).lines) == 3
    batch = await turned(double, client, batch, 3.5)
    assert (batch.status, counts(batch)) == ("finalizing", (10, 10, 0))


async def test_a_clock_of_its_own_runs_a_batch(double: Double, client: AsyncOpenAI) -> None:
    """With `auto` nobody needs to turn it."""
    batch = await create(client, 1)
    await double.auto(10_000)
    while batch.status != "completed":
        batch = await client.batches.retrieve(batch.id)


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (jsonl([line("")]), "missing_required_parameter", "custom_id"),
        (jsonl([line("b", body=None)]), "missing_required_parameter", "body"),
        (jsonl([line("b", body=body("b", model=None))]), "invalid_request", "body.model"),
        (jsonl([line("b", body=body("b", messages=[]))]), "invalid_request", "body.messages"),
        (jsonl([line("b", url="/v1/embeddings")]), "invalid_url", "url"),
        (jsonl([line("b", body=body("b", model="x"))]), "model_not_found", "body.model"),
        (jsonl([line("b", body=body("b", stream=True))]), "streaming_unsupported", "body.stream"),
        (jsonl([line("b", body=body("b", model="m"))]), "mismatched_model", "body.model"),
        (jsonl([line("a")]), "duplicate_custom_id", "custom_id"),
    ],
)
async def test_one_bad_line_fails_the_batch(
    double: Double, client: AsyncOpenAI, bad: bytes, code: str, param: str | None
) -> None:
    """With its code, its 1-based number and its parameter; nothing is computed."""
    await double.configure(models=[MODEL, "m"])
    batch = await create(client, jsonl([line("a")]) + bad)
    batch = await turned(double, client, batch, DONE_SECONDS)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.line, error.param) == (code, 2, param)
    assert (batch.status, counts(batch)) == ("failed", (0, 0, 0))
    assert batch.failed_at == batch.created_at + 1
    assert (await double.seen()).lines == {}


async def test_every_bad_line_is_named(double: Double, client: AsyncOpenAI) -> None:
    """Not only the first."""
    content = jsonl([line("a"), line("a"), line("b", url="/v1/x"), line("c"), line("c")])
    batch = await turned(double, client, await create(client, content), 1)
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data or []] == [2, 3, 5]


async def test_a_missing_file_fails_the_batch_and_not_its_creation(
    double: Double, client: AsyncOpenAI
) -> None:
    """As COMPAT has it: created, then failed."""
    batch = await create(client, 1, input_file_id="file-none")
    assert batch.status == "validating"
    batch = await turned(double, client, batch, 1)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.line, error.param) == ("invalid_request", None, "file_id")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"endpoint": "/v1/images"}, "invalid_value", "endpoint"),
        ({"completion_window": "1h"}, "invalid_value", "completion_window"),
        ({"completion_window": "8h"}, "invalid_value", "completion_window"),
        ({"metadata": {"tags": ["a"]}}, "invalid_type", "metadata.tags"),
        ({"metadata": {str(n): "" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ({"input_file_id": openai.omit}, "missing_required_parameter", "input_file_id"),
    ],
)
async def test_a_bad_creation_is_refused(
    client: AsyncOpenAI, changes: dict[str, Any], code: str, param: str
) -> None:
    """With a 400; no batch comes of it."""
    with pytest.raises(openai.BadRequestError) as refused:
        await create(client, 1, **changes)
    assert (refused.value.code, refused.value.param) == (code, param)
    assert (await client.batches.list()).data == []


async def test_shorter_windows_where_they_are_set(double: Double, client: AsyncOpenAI) -> None:
    """8h and 2h, each with its own expiry."""
    await double.configure(windows=["24h", "8h", "2h"])
    for window, hours in (("8h", 8), ("2h", 2)):
        batch = await create(client, 1, completion_window=window)
        assert batch.expires_at == batch.created_at + hours * 3600


async def test_batches_are_listed_by_cursor(client: AsyncOpenAI) -> None:
    """The newest first, with their metadata; the stock client's paging finds each once."""
    made = [await create(client, 1, metadata={"n": str(n)}) for n in range(5)]
    listed = [batch async for batch in client.batches.list(limit=2)]
    assert [batch.metadata for batch in listed] == [batch.metadata for batch in made[::-1]]
    page = await client.batches.list(after=made[3].id, limit=2)
    assert [batch.id for batch in page.data] == [made[2].id, made[1].id]
    with pytest.raises(openai.BadRequestError):
        await client.batches.list(limit=101)


async def test_enqueued_tokens_are_limited_by_model(double: Double, client: AsyncOpenAI) -> None:
    """A batch over the limit fails at its validation; once another ends there is room again."""
    await double.configure(enqueued_tokens=250)

    def hundred(model: str) -> list[dict[str, Any]]:
        return [line("a", body=body("x" * 400, model=model))]

    first, second = [await create(client, hundred(MODEL)) for _ in range(2)]
    third = await create(client, hundred(MODEL))
    other = await create(client, hundred("gpt-6-astra"))
    await double.advance(1)
    states = [(await client.batches.retrieve(b.id)).status for b in (first, second, third, other)]
    assert states == ["in_progress", "in_progress", "failed", "in_progress"]
    third = await client.batches.retrieve(third.id)
    assert third.errors is not None
    (error,) = third.errors.data or []
    assert (error.code, error.line) == ("token_limit_exceeded", None)
    assert "Limit: 250 enqueued tokens" in (error.message or "")
    await double.advance(DONE_SECONDS)
    again = await turned(double, client, await create(client, hundred(MODEL)), 1)
    assert again.status == "in_progress"


async def test_an_expired_batch_keeps_what_was_done(double: Double, client: AsyncOpenAI) -> None:
    """Finished lines in the output, the rest `batch_expired` in the error file."""
    await double.configure(lines_per_second=2 / DAY_SECONDS)
    batch = await turned(double, client, await create(client, 3), DAY_SECONDS - 1)
    assert batch.status == "in_progress"
    batch = await turned(double, client, batch, 1)
    assert (batch.status, batch.expired_at) == ("expired", batch.expires_at)
    assert await ids(client, batch.output_file_id) == ["r0"]
    errors = await entries(client, batch.error_file_id)
    assert sorted(entry["custom_id"] for entry in errors) == ["r1", "r2"]
    assert {entry["error"]["code"] for entry in errors} == {"batch_expired"}
    assert {entry["response"] for entry in errors} == {None}
    assert (await double.seen()).lines == {"r0": 1}


async def test_a_batch_may_expire_while_it_is_finalizing(
    double: Double, client: AsyncOpenAI
) -> None:
    """Then all of it is done, and nothing stands in an error file."""
    await double.configure(finalizing_seconds=2 * DAY_SECONDS)
    batch = await turned(double, client, await create(client, 2), DAY_SECONDS)
    assert batch.status == "expired"
    assert await ids(client, batch.output_file_id) == ["r0", "r1"]
    assert batch.error_file_id is None


async def test_a_cancelled_batch_keeps_what_was_done(double: Double, client: AsyncOpenAI) -> None:
    """cancelling, then cancelled; the rest is never computed, and cancelling again is harmless."""
    await double.configure(lines_per_second=1)
    batch = await turned(double, client, await create(client, 3), 2)
    batch = await client.batches.cancel(batch.id)
    assert (batch.status, batch.output_file_id) == ("cancelling", None)
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    batch = await turned(double, client, batch, 100)
    assert (batch.status, batch.cancelled_at) == ("cancelled", batch.created_at + 3)
    assert await ids(client, batch.output_file_id) == ["r0"]
    errors = await entries(client, batch.error_file_id)
    assert sorted(entry["custom_id"] for entry in errors) == ["r1", "r2"]
    assert {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert (await client.batches.cancel(batch.id)).status == "cancelled"
    assert (await double.seen()).lines == {"r0": 1}


async def test_a_batch_cancelled_before_it_was_read_has_no_files(
    double: Double, client: AsyncOpenAI
) -> None:
    """Nothing was validated, so no line is known."""
    batch = await client.batches.cancel((await create(client, 3)).id)
    batch = await turned(double, client, batch, 100)
    assert (batch.status, counts(batch)) == ("cancelled", (0, 0, 0))
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


async def test_an_ended_batch_cannot_be_cancelled(double: Double, client: AsyncOpenAI) -> None:
    """completed and failed are 409; what never was is 404."""
    completed, failed = await create(client, 1), await create(client, 1, input_file_id="none")
    await double.advance(DONE_SECONDS)
    for batch, status in ((completed, "completed"), (failed, "failed")):
        with pytest.raises(openai.ConflictError, match=f"status '{status}'"):
            await client.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        await client.batches.cancel("batch_none")


async def test_a_deleted_input_file_is_not_found_at_validation(
    double: Double, client: AsyncOpenAI
) -> None:
    """Later the batch does not need it any more."""
    early, late = await create(client, 1), await create(client, 1)
    await client.files.delete(early.input_file_id)
    await double.advance(1)
    await client.files.delete(late.input_file_id)
    await double.advance(DONE_SECONDS)
    states = [(await client.batches.retrieve(b.id)).status for b in (early, late)]
    assert states == ["failed", "completed"]


@pytest.mark.timed
async def test_five_thousand_lines_take_under_two_seconds(
    double: Double, client: AsyncOpenAI
) -> None:
    """Of real time, from the upload to the last byte of the output."""
    content = jsonl(line(f"r{n}") for n in range(5000))
    start = time.monotonic()
    batch = await turned(double, client, await create(client, content), DONE_SECONDS)
    output = await client.files.content(batch.output_file_id or "")
    assert time.monotonic() - start < 2
    assert output.content.count(b"\n") == 5000
    assert batch.endpoint == CHAT
