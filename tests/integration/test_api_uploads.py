"""A file may come in parts: it is made whole and in order by one step, or not at all."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from openai.types import Upload
from openai.types.uploads import UploadPart

from db.keys import NewKey
from tests.batches import jsonl, line
from tests.clients import Requests, Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

ONE, TWO, THREE = (Random(seed).randbytes(300_000) for seed in (1, 2, 3))
WHOLE = ONE + TWO + THREE
MD5 = hashlib.md5(WHOLE).hexdigest()
MEGABYTE = bytes(1_000_000)
FORM = {"content-type": "multipart/form-data; boundary=edge"}
HEAD = b'--edge\r\nContent-Disposition: form-data; name="data"; filename="upload"\r\n\r\n'
END = b"\r\n--edge--\r\n"
WANTED: dict[str, Any] = {
    "bytes": len(WHOLE),
    "filename": "whole.bin",
    "mime_type": "application/octet-stream",
    "purpose": "user_data",
}
SLOW_SECONDS = 60
"""How much later than it is begun a file may be whole, from when its life counts."""
ROWS = "select count(*) from upload_parts where upload_id = $1::uuid and state = $2"


async def begun(stock: Stock, **changes: Any) -> Any:
    return await stock(lambda c: c.uploads.create(**(WANTED | changes)))


async def sent(stock: Stock, upload: Any, *parts: bytes) -> list[str]:
    return [(await stock(sending(upload, part))).id for part in parts]


def sending(upload: Any, part: bytes) -> Callable[[Any], Any]:
    return lambda c: c.uploads.parts.create(upload.id, data=part)


async def files(stock: Stock) -> list[Any]:
    found: list[Any] = await stock(lambda c: c.files.list())
    return found


def hexadecimal(upload: Any) -> str:
    return str(upload.id.removeprefix("upload_"))


async def test_parts_become_a_file_in_the_order_that_is_said(stock: Stock) -> None:
    upload = await begun(stock)
    Upload.model_validate(upload.model_dump(), strict=True)
    assert (upload.status, upload.bytes, upload.filename, upload.purpose, upload.file) == (
        *("pending", len(WHOLE), "whole.bin", "user_data"),
        None,
    )
    assert upload.expires_at - upload.created_at == 3600
    three = await stock(lambda c: c.uploads.parts.create(upload.id, data=THREE))
    UploadPart.model_validate(three.model_dump(), strict=True)
    assert (three.object, three.upload_id) == ("upload.part", upload.id)
    one, two = await sent(stock, upload, ONE, TWO)
    assert await files(stock) == []
    ids = [one, two, three.id]
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids, md5=MD5))
    Upload.model_validate(done.model_dump(), strict=True)
    assert (done.id, done.status, done.created_at) == (upload.id, "completed", upload.created_at)
    assert (done.file.bytes, done.file.filename, done.file.purpose, done.file.expires_at) == (
        *(len(WHOLE), "whole.bin", "user_data"),
        None,
    )
    assert await files(stock) == [done.file]
    assert (await stock(lambda c: c.files.content(done.file.id))).content == WHOLE


async def test_the_sdk_sends_a_large_file_by_itself(stock: Stock) -> None:
    done = await stock(
        lambda c: c.uploads.upload_file_chunked(
            file=WHOLE,
            filename="whole.bin",
            bytes=len(WHOLE),
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=100_000,
            md5=MD5,
        )
    )
    assert (await stock(lambda c: c.files.content(done.file.id))).content == WHOLE


async def test_a_completion_may_be_asked_again(stock: Stock) -> None:
    upload = await begun(stock)
    ids = await sent(stock, upload, ONE, TWO, THREE)
    first = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    assert await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids)) == first
    assert await files(stock) == [first.file]


async def test_completions_at_once_make_one_file(stack: Stack, requests: Requests) -> None:
    http = requests.http
    upload = (await http.post("/uploads", json=WANTED)).json()
    path = f"/uploads/{upload['id']}"
    parts = [
        (await http.post(f"{path}/parts", files={"data": part})).json()["id"]
        for part in (ONE, TWO, THREE)
    ]
    answers = await asyncio.gather(
        *(http.post(f"{path}/complete", json={"part_ids": parts}) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {200}
    made = {answer.json()["file"]["id"] for answer in answers}
    assert len(made) == 1
    listed = (await http.get("/files")).json()["data"]
    assert [file["id"] for file in listed] == list(made)
    content = await http.get(f"/files/{listed[0]['id']}/content")
    assert content.content == WHOLE


async def test_parts_sent_at_once_are_each_whole(requests: Requests) -> None:
    http = requests.http
    upload = (await http.post("/uploads", json=WANTED | {"bytes": 20 * len(ONE)})).json()
    path = f"/uploads/{upload['id']}"
    contents = [Random(seed).randbytes(len(ONE)) for seed in range(20)]
    answers = await asyncio.gather(
        *(http.post(f"{path}/parts", files={"data": content}) for content in contents)
    )
    ids = [answer.json()["id"] for answer in answers]
    done = await http.post(f"{path}/complete", json={"part_ids": ids[::-1]})
    content = await http.get(f"/files/{done.json()['file']['id']}/content")
    assert content.content == b"".join(contents[::-1])


@pytest.mark.parametrize(
    ("chosen", "md5", "param"),
    [
        ((0, 1), None, "part_ids"),
        ((0, 1, 2, 2), None, "part_ids"),
        ((0, 0, 0), None, "part_ids"),
        ((0, 1, 9), None, "part_ids"),
        ((), None, "part_ids"),
        ((0, 2, 1), MD5, "md5"),
        ((0, 1, 2), "0" * 32, "md5"),
        ((0, 1, 2), "no md5", "md5"),
    ],
)
async def test_a_completion_that_is_wrong_changes_nothing(
    stock: Stock, chosen: tuple[int, ...], md5: str | None, param: str
) -> None:
    upload = await begun(stock)
    ids = await sent(stock, upload, ONE, TWO, THREE)
    asked = [ids[n] if n < 3 else "part_" + "0" * 32 for n in chosen]
    options: dict[str, Any] = {} if md5 is None else {"md5": md5}
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.uploads.complete(upload.id, part_ids=asked, **options))
    assert caught.value.param == param
    assert await files(stock) == []
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids, md5=MD5.upper()))
    assert (await stock(lambda c: c.files.content(done.file.id))).content == WHOLE


async def test_a_part_of_another_upload_is_none_of_this(stock: Stock) -> None:
    upload, other = await begun(stock, bytes=len(ONE)), await begun(stock, bytes=len(ONE))
    [part] = await sent(stock, other, ONE)
    with pytest.raises(BadRequestError, match=part):
        await stock(lambda c: c.uploads.complete(upload.id, part_ids=[part]))


@pytest.mark.parametrize("state", ["cancelled", "completed", "expired"])
async def test_an_upload_that_has_ended_takes_nothing_more(
    stack: Stack, stock: Stock, state: str
) -> None:
    upload = await begun(stock, bytes=len(ONE))
    [part] = await sent(stock, upload, ONE)
    if state == "cancelled":
        ended = await stock(lambda c: c.uploads.cancel(upload.id))
        assert (ended.id, ended.status) == (upload.id, "cancelled")
        assert await stock(lambda c: c.uploads.cancel(upload.id)) == ended
    elif state == "completed":
        await stock(lambda c: c.uploads.complete(upload.id, part_ids=[part]))
    else:
        await stack.fetch(
            "update uploads set expires_at = now() where id = $1::uuid", hexadecimal(upload)
        )
    before = await files(stock)
    with pytest.raises(BadRequestError, match=state):
        await stock(lambda c: c.uploads.parts.create(upload.id, data=ONE))
    if state != "cancelled":
        with pytest.raises(BadRequestError, match=state):
            await stock(lambda c: c.uploads.cancel(upload.id))
    if state != "completed":
        with pytest.raises(BadRequestError, match=state):
            await stock(lambda c: c.uploads.complete(upload.id, part_ids=[part]))
    assert await files(stock) == before


async def test_a_part_that_comes_too_late_leaves_nothing(stack: Stack, requests: Requests) -> None:
    """The upload is cancelled while one of its parts is on its way."""
    upload = (await requests.http.post("/uploads", json=WANTED)).json()
    path = f"/uploads/{upload['id']}"
    identifier = upload["id"].removeprefix("upload_")

    async def begun_part() -> bool:
        return bool(await stack.value(ROWS, identifier, 0))

    async def body() -> AsyncIterator[bytes]:
        yield HEAD + ONE
        await eventually(begun_part)
        assert (await requests.http.post(f"{path}/cancel")).json()["status"] == "cancelled"
        yield END

    answer = await requests.http.post(f"{path}/parts", content=body(), headers=FORM)
    assert answer.status_code == 400
    assert await stack.value(ROWS, identifier, 2) == 1
    [row] = await stack.fetch("select id from upload_parts where upload_id = $1::uuid", identifier)
    assert not list((stack.directory / "files").rglob(f"{row['id'].hex}*"))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"bytes": 2**70}, "bytes"),
        ({"bytes": "many"}, "bytes"),
        ({"bytes": 200 * 1024**2 + 1, "purpose": "batch"}, "bytes"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"purpose": "wrong"}, "purpose"),
        ({"filename": 7}, "filename"),
        ({"mime_type": None}, "mime_type"),
        (
            {"expires_after": {"anchor": "created_at", "seconds": 3599}},
            "expires_after.seconds",
        ),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
    ],
    ids=range(12),
)
async def test_an_upload_that_cannot_be(
    requests: Requests, changes: dict[str, Any], param: str
) -> None:
    answer = await requests.http.post("/uploads", json=WANTED | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("missing", sorted(WANTED))
async def test_what_is_missing_is_named(requests: Requests, missing: str) -> None:
    body = {name: value for name, value in WANTED.items() if name != missing}
    answer = await requests.http.post("/uploads", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (missing, "missing_required_parameter")


@pytest.mark.parametrize("path", ["", "/upload_{}/complete"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"x": ' + b"[" * 100_000])
async def test_a_body_that_is_no_json(requests: Requests, path: str, body: bytes) -> None:
    upload = (await requests.http.post("/uploads", json=WANTED)).json()
    path = path.format(upload["id"].removeprefix("upload_"))
    answer = await requests.http.post(f"/uploads{path}", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


async def test_a_name_is_stored_as_text(stock: Stock) -> None:
    upload = await begun(stock, filename="a\0b" + "\u00fc" * 9999, mime_type="\0" * 9999)
    assert upload.filename == "ab" + "\u00fc" * 253


async def test_a_batch_file_may_come_in_parts(stock: Stock) -> None:
    """It expires as others of its purpose, and what begins as no batch is refused at the end."""
    content = jsonl([line("a"), line("b")])
    upload = await begun(stock, bytes=len(content), purpose="batch")
    ids = await sent(stock, upload, content[:10], content[10:])
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    life = done.file.expires_at - done.file.created_at
    assert life == pytest.approx(30 * 86_400, abs=SLOW_SECONDS)
    upload = await begun(stock, bytes=len(content), purpose="batch")
    ids = await sent(stock, upload, content[10:], content[:10])
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    assert caught.value.code == "invalid_file_format"
    assert await files(stock) == [done.file]


async def test_the_file_expires_when_its_owner_says(stock: Stock) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    upload = await begun(stock, bytes=len(ONE), expires_after=after)
    ids = await sent(stock, upload, ONE)
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    assert done.file.expires_at - done.file.created_at == pytest.approx(3600, abs=SLOW_SECONDS)


async def test_the_file_of_a_completed_upload_may_be_deleted(stock: Stock) -> None:
    upload = await begun(stock, bytes=len(ONE))
    ids = await sent(stock, upload, ONE)
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    await stock(lambda c: c.files.delete(done.file.id))
    again = await stock(lambda c: c.uploads.complete(upload.id, part_ids=ids))
    assert (again.status, again.file) == ("completed", None)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_part_over_the_limit_is_refused_before_it_is_read_whole(
    stack: Stack, requests: Requests, declared: bool
) -> None:
    upload = (await requests.http.post("/uploads", json=WANTED)).json()

    async def body() -> AsyncIterator[bytes]:
        yield HEAD
        for _ in range(80):
            yield MEGABYTE
        yield END

    headers = dict(FORM)
    if declared:
        headers["content-length"] = str(len(HEAD) + 80 * len(MEGABYTE) + len(END))
    answer = await requests.http.post(
        f"/uploads/{upload['id']}/parts", content=body(), headers=headers
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert await stack.value(ROWS, upload["id"].removeprefix("upload_"), 1) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        HEAD + b"cut off",
        HEAD.replace(b"data", b"other") + b"x" + END,
        HEAD + b"one\r\n" + HEAD + b"two" + END,
    ],
    ids=range(5),
)
async def test_a_part_that_is_no_form(stack: Stack, requests: Requests, body: bytes) -> None:
    upload = (await requests.http.post("/uploads", json=WANTED)).json()
    answer = await requests.http.post(f"/uploads/{upload['id']}/parts", content=body, headers=FORM)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    identifier = upload["id"].removeprefix("upload_")
    assert [await stack.value(ROWS, identifier, state) for state in (0, 1)] == [0, 0]


async def test_a_part_that_stalls_is_cut_off(hasty_stack: Stack) -> None:
    async with hasty_stack.http() as http:
        upload = (await http.post("/uploads", json=WANTED)).json()
        path = f"/v1/uploads/{upload['id']}/parts".encode()
        async with hasty_stack.connection() as (reader, writer):
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
                b"content-type: %b\r\ncontent-length: 9999999\r\n\r\n"
                % (path, hasty_stack.api_key.encode(), FORM["content-type"].encode())
            )
            writer.write(HEAD + ONE)
            await writer.drain()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b" 400 " in head.splitlines()[0]
    identifier = upload["id"].removeprefix("upload_")
    assert [await hasty_stack.value(ROWS, identifier, state) for state in (0, 1)] == [0, 0]


async def test_an_upload_is_its_teams(stack: Stack, stock: Stock, strangers: NewKey) -> None:
    upload = await begun(stock, bytes=len(ONE))
    [part] = await sent(stock, upload, ONE)
    path = f"/uploads/{upload.id}"
    async with stack.http(strangers.secret) as http:
        for answer in (
            await http.post(f"{path}/parts", files={"data": b"x"}),
            await http.post(f"{path}/complete", json={"part_ids": [part]}),
            await http.post(f"{path}/cancel"),
        ):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"
    done = await stock(lambda c: c.uploads.complete(upload.id, part_ids=[part]))
    assert done.status == "completed"


@pytest.mark.parametrize("name", ["upload_" + "0" * 32, "upload_x", "x"])
async def test_an_upload_that_does_not_exist(stock: Stock, name: str) -> None:
    with pytest.raises(NotFoundError):
        await stock(lambda c: c.uploads.cancel(name))
