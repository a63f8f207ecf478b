"""A batch takes any file that OpenAI's takes, and tells what is wrong with it line by line."""

import json
from collections.abc import AsyncIterator

import pytest
from openai.types import Batch

from db.keys import NewKey
from tests.batches import URL, Batches, Json, jsonl, line, lines
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("quiet")


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


async def test_a_file_that_is_not_there(batches: Batches, stack: Stack, strangers: NewKey) -> None:
    async with stack.http(strangers.secret) as http:
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
