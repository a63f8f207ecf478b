"""Files go in and come out as streams, whole or not at all, and belong to their team alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
from openai import BadRequestError, NotFoundError
from openai.types import FileObject

from db.keys import NewKey
from tests.batches import jsonl, line
from tests.clients import Requests, Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

BATCH = jsonl([line("a"), line("b")])
MEGABYTE = b"x" * 999_999 + b"\n"
BOUNDARY = b"edge"
FORM = {"content-type": "multipart/form-data; boundary=edge"}
BYTES_GROWN = 60_000_000
HUGE_PIECES = 700
"""Megabytes; a file of a batch may have 200."""
BEGUN = """
select count(*) from files f join keys k on k.team_id = f.team_id where k.id = $1 and f.state = 0
"""


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    extra = b"" if filename is None else b'; filename="%b"' % filename.encode()
    head = b'--edge\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), extra)
    return head + value + b"\r\n"


END = b"--edge--\r\n"


def upload_head(secret: str, length: bytes) -> bytes:
    """Of an upload over a bare connection; ``length`` is the header that says how its body ends."""
    return (
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: %b\r\n%b\r\n\r\n" % (secret.encode(), FORM["content-type"].encode(), length)
    )


async def send(requests: Requests, *parts: bytes, **options: Any) -> Any:
    return await requests.http.post("/files", content=b"".join(parts), headers=FORM, **options)


def asking(what: str, identifier: str) -> Callable[[Any], Any]:
    return lambda c: getattr(c.files, what)(identifier)


def creating(purpose: str) -> Callable[[Any], Any]:
    return lambda c: c.files.create(file=b"any", purpose=purpose)


async def nothing_left(stack: Stack) -> None:
    """Nothing half-written is in the store, and nothing of it is shown."""
    store = stack.directory / "files"

    async def clean() -> bool:
        return not list(store.rglob("*.unfinished"))

    await eventually(clean)


async def test_a_file_is_shown_listed_read_and_deleted(stock: Stock) -> None:
    made = await stock(lambda c: c.files.create(file=("in.jsonl", BATCH), purpose="batch"))
    FileObject.model_validate(made.model_dump(), strict=True)
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(BATCH),
        "in.jsonl",
        "batch",
        "processed",
    )
    assert made.expires_at - made.created_at == pytest.approx(30 * 86_400, abs=60)
    assert await stock(lambda c: c.files.retrieve(made.id)) == made
    assert await stock(lambda c: c.files.wait_for_processing(made.id)) == made
    assert [item.id for item in await stock(lambda c: c.files.list())] == [made.id]
    got = await stock(lambda c: c.files.content(made.id))
    assert got.content == BATCH
    gone = await stock(lambda c: c.files.delete(made.id))
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for ask in ("retrieve", "delete", "content"):
        with pytest.raises(NotFoundError):
            await stock(asking(ask, made.id))
    assert await stock(lambda c: c.files.list()) == []


async def test_raw_bytes_are_named_upload(stock: Stock) -> None:
    made = await stock(lambda c: c.files.create(file=b"any", purpose="user_data"))
    assert (made.filename, made.bytes, made.expires_at) == ("upload", 3, None)


async def test_a_file_expires_when_its_owner_says(stock: Stock) -> None:
    after: Any = {"anchor": "created_at", "seconds": 3600}
    made = await stock(lambda c: c.files.create(file=b"any", purpose="evals", expires_after=after))
    assert made.expires_at - made.created_at == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([], "purpose"),
        ([part("purpose", b"wrong")], "purpose"),
        ([part("purpose", b"batch_output")], "purpose"),
        ([part("purpose", b"")], "purpose"),
        (
            [part("purpose", b"evals"), part("expires_after[seconds]", b"3600")],
            "expires_after.anchor",
        ),
        *(
            (
                [
                    part("purpose", b"evals"),
                    part("expires_after[anchor]", b"created_at"),
                    part("expires_after[seconds]", seconds),
                ],
                "expires_after.seconds",
            )
            for seconds in (b"3599", b"2592001", b"soon", b"9" * 5000, b"")
        ),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("last", [False, True], ids=["fields first", "file first"])
async def test_fields_that_are_wrong(
    stack: Stack, requests: Requests, fields: list[bytes], param: str, last: bool
) -> None:
    file = [part("file", BATCH, "in.jsonl")]
    answer = await send(requests, *(file + fields if last else fields + file), END)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert (await requests.http.get("/files")).json()["data"] == []
    await nothing_left(stack)


async def test_the_file_may_come_first(requests: Requests) -> None:
    answer = await send(requests, part("file", BATCH, "f"), part("purpose", b"batch"), END)
    assert answer.status_code == 200
    assert (answer.json()["purpose"], answer.json()["bytes"]) == ("batch", len(BATCH))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        part("purpose", b"batch") + END,
        part("file", BATCH, "f") + part("purpose", b"batch"),
        part("file", BATCH, "f")[:60],
        part("purpose", b"batch") + part("file", b"{}", "f") + part("file", b"{}", "g") + END,
        b"--edge\r\n" + b"x" * 100_000,
        part("purpose", b"x" * 200_000) + END,
        b"".join(part(f"f{n}", b"") for n in range(200)) + END,
    ],
    ids=range(9),
)
async def test_what_is_no_form_is_refused(stack: Stack, requests: Requests, body: bytes) -> None:
    answer = await send(requests, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (await requests.http.get("/files")).json()["data"] == []
    await nothing_left(stack)


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="]
)
async def test_a_body_that_says_it_is_no_form(requests: Requests, kind: str) -> None:
    answer = await requests.http.post("/files", content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_form"


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"no json\n" + BATCH, b"[]\n", b"\xff\n", b"7", b"{\n" + BATCH]
)
async def test_what_cannot_be_a_batch_is_refused_at_once(stock: Stock, content: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.files.create(file=("in.jsonl", content), purpose="batch"))
    assert caught.value.param == "file"
    assert await stock(lambda c: c.files.list()) == []


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + BATCH, b"\r\n\r\n" + BATCH, BATCH.strip(), b" " + BATCH]
)
async def test_what_reads_as_lines_is_accepted(stock: Stock, content: bytes) -> None:
    made = await stock(lambda c: c.files.create(file=("in.jsonl", content), purpose="batch"))
    assert (await stock(lambda c: c.files.content(made.id))).content == content


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", 'a"b', "a\\b", "a" * 5000, "\u00fc\U0001f697.jsonl", "a;b=c", ""]
)
async def test_a_name_is_only_a_name(stock: Stock, name: str) -> None:
    made = await stock(lambda c: c.files.create(file=(name, b"any"), purpose="evals"))
    assert len(made.filename) <= 255
    got = await stock(lambda c: c.files.content(made.id))
    assert got.content == b"any"
    assert "\n" not in got.response.headers["content-disposition"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-4", (206, b"01234", "bytes 0-4/20")),
        ("bytes=15-", (206, b"56789", "bytes 15-19/20")),
        ("bytes=-3", (206, b"789", "bytes 17-19/20")),
        ("bytes=-99", (206, b"01234567890123456789", "bytes 0-19/20")),
        ("bytes=18-99", (206, b"89", "bytes 18-19/20")),
        ("bytes=20-", (416, None, "bytes */20")),
        ("bytes=-0", (416, None, "bytes */20")),
        ("bytes=5-4", (200, b"01234567890123456789", None)),
        ("bytes=a-b", (200, b"01234567890123456789", None)),
        ("bytes=0-1,4-5", (200, b"01234567890123456789", None)),
        ("lines=0-1", (200, b"01234567890123456789", None)),
    ],
)
async def test_a_range_is_read(requests: Requests, asked: str, expected: Any) -> None:
    made = await send(
        requests, part("purpose", b"evals"), part("file", b"0123456789" * 2, "f"), END
    )
    answer = await requests.http.get(
        f"/files/{made.json()['id']}/content", headers={"range": asked}
    )
    status, body, told = expected
    assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
    assert answer.headers["accept-ranges"] == "bytes"
    if body is not None:
        assert answer.content == body
        assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("asked", [{}, {"range": "bytes=1-"}], ids=["all", "a range"])
async def test_a_file_whose_bytes_are_lost_is_not_found(
    stack: Stack, requests: Requests, asked: dict[str, str]
) -> None:
    """The status says so, and no body is begun and broken off."""
    made = (await send(requests, part("purpose", b"evals"), part("file", b"any", "f"), END)).json()
    (stack.directory / "files" / "files" / made["id"].removeprefix("file-")).unlink()
    answer = await requests.http.get(f"/files/{made['id']}/content", headers=asked)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_the_list_is_paged_by_id(stock: Stock) -> None:
    made = [(await stock(creating(n))).id for n in ("evals", "vision", "evals", "evals", "vision")]
    assert [item.id for item in await stock(lambda c: c.files.list(limit=2))] == made[::-1]
    assert [item.id for item in await stock(lambda c: c.files.list(limit=2, order="asc"))] == made
    found = await stock(lambda c: c.files.list(purpose="vision", limit=1))
    assert [item.id for item in found] == [made[4], made[1]]
    page = await stock(lambda c: c.get("/files", cast_to=object, options={"params": {"limit": 2}}))
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[3], True)


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=0", 400), ("limit=10001", 400), ("order=up", 400), ("after=file-1", 404)],
)
async def test_a_list_that_cannot_be(requests: Requests, query: str, status: int) -> None:
    assert (await requests.http.get(f"/files?{query}")).status_code == status


async def test_a_file_is_its_teams(stack: Stack, stock: Stock, strangers: NewKey) -> None:
    made = await stock(lambda c: c.files.create(file=b"any", purpose="evals"))
    async with stack.http(strangers.secret) as http:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            answer = await http.request(method, f"/files/{made.id}{path}")
            assert answer.status_code == 404
        assert (await http.get("/files")).json()["data"] == []
    assert (await stock(lambda c: c.files.content(made.id))).content == b"any"


async def test_200_megabytes_go_in_and_out_in_flat_memory(stack: Stack, requests: Requests) -> None:
    api = psutil.Process(stack.pid("api"))
    before = largest = api.memory_info().rss
    head = part("purpose", b"user_data") + part("file", b"", "f")[:-2]

    async def body() -> AsyncIterator[bytes]:
        nonlocal largest
        yield head
        for _ in range(200):
            yield MEGABYTE
            largest = max(largest, api.memory_info().rss)
        yield b"\r\n" + END

    made = await requests.http.post("/files", content=body(), headers=FORM)
    assert made.status_code == 200
    assert made.json()["bytes"] == 200 * len(MEGABYTE)
    size = 0
    async with requests.http.stream("GET", f"/files/{made.json()['id']}/content") as answer:
        async for piece in answer.aiter_bytes():
            size += len(piece)
            largest = max(largest, api.memory_info().rss)
    assert size == 200 * len(MEGABYTE)
    assert largest - before < BYTES_GROWN


@pytest.mark.parametrize("blank", [b" ", b"\n", b"\r\n"])
async def test_blanks_in_front_of_a_batch_are_passed_over_in_flat_memory(
    stack: Stack, requests: Requests, blank: bytes
) -> None:
    """100 MB of them are refused if nothing follows, and accepted before a first line."""
    api = psutil.Process(stack.pid("api"))
    before = largest = api.memory_info().rss
    blanks = blank * (1_000_000 // len(blank))

    async def body(content: bytes) -> AsyncIterator[bytes]:
        nonlocal largest
        yield part("purpose", b"batch") + part("file", b"", "f")[:-2]
        for _ in range(100):
            yield blanks
            largest = max(largest, api.memory_info().rss)
        yield content + b"\r\n" + END

    refused = await requests.http.post("/files", content=body(b""), headers=FORM)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file")
    made = await requests.http.post("/files", content=body(BATCH), headers=FORM)
    assert made.json()["bytes"] == 100 * len(blanks) + len(BATCH)
    assert largest - before < BYTES_GROWN


@pytest.mark.parametrize("declared", [True, False])
async def test_a_batch_file_over_the_limit_is_refused_before_it_is_read_whole(
    stack: Stack, requests: Requests, team: NewKey, declared: bool
) -> None:
    """Who reads while it sends has its answer long before it has sent all."""
    head = part("purpose", b"batch") + part("file", b"", "f")[:-2] + jsonl([line("a")])
    length = (
        b"content-length: %d" % (len(head) + HUGE_PIECES * len(MEGABYTE))
        if declared
        else b"transfer-encoding: chunked"
    )
    async with stack.connection() as (reader, writer):
        writer.write(upload_head(team.secret, length))
        answer = asyncio.create_task(reader.readuntil(b"request_too_large"))
        sent = 0
        with suppress(ConnectionError):  # which it may break, once it has answered
            for piece in (head, *[MEGABYTE] * HUGE_PIECES):
                writer.write(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0)  # lets the answer be read
                if answer.done():
                    break
                sent += len(piece)
        assert (await answer).startswith(b"HTTP/1.1 413 ")
        assert sent < HUGE_PIECES * len(MEGABYTE) / 2
    assert (await requests.http.get("/files")).json()["data"] == []
    await nothing_left(stack)


async def test_an_upload_that_stalls_is_cut_off_and_leaves_nothing(hasty_stack: Stack) -> None:
    async with hasty_stack.connection() as (reader, writer):
        body = part("purpose", b"evals") + part("file", b"x" * 100_000, "f")
        writer.write(upload_head(hasty_stack.api_key, b"content-length: 9999999"))
        writer.write(body)
        await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert b" 400 " in head.splitlines()[0]
    async with hasty_stack.http() as http:
        assert (await http.get("/files")).json()["data"] == []
    await nothing_left(hasty_stack)


async def test_a_client_that_hangs_up_half_way_leaves_nothing(stack: Stack, team: NewKey) -> None:
    async def begun() -> bool:
        return bool(await stack.value(BEGUN, team.id))

    async def ended() -> bool:
        return not await begun()

    async with stack.connection() as (_, writer):
        writer.write(upload_head(team.secret, b"content-length: 9999999"))
        writer.write(part("purpose", b"evals") + part("file", b"x" * 1_000_000, "f"))
        await writer.drain()
        await eventually(begun)
    await eventually(ended)
    await nothing_left(stack)


async def test_what_has_expired_is_gone(stack: Stack, stock: Stock) -> None:
    made = await stock(lambda c: c.files.create(file=b"any", purpose="evals"))
    await stack.fetch(
        "update files set expires_at = $2 where id = $1::uuid",
        made.id.removeprefix("file-"),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(NotFoundError):
        await stock(lambda c: c.files.retrieve(made.id))
    assert await stock(lambda c: c.files.list()) == []
