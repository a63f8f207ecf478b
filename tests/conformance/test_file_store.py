"""Both stores keep one promise: an object is there whole, or not at all."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from carpool.errors import ConfigurationError, FileMissing, StoreAway
from carpool.settings import load
from carpool.store import FileStore, open_store
from carpool.store.local import LocalStore
from carpool.store.objects import ObjectStore
from tests.buckets import Bucket, s3

BIG = Random(1).randbytes(20_000_000)
PIECE_BYTES = 1 << 20
DIGITS = b"0123456789"


class Crash(Exception):
    """What ends a writer."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3() as made:
        yield made


@pytest.fixture(params=["local", "s3"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], FileStore]:
    """Opens the store of one kind below a path of this test."""

    def open_below(prefix: str) -> FileStore:
        if request.param == "local":
            return open_store(load(files_url=(tmp_path / prefix).as_uri()))
        found: Bucket = request.getfixturevalue("bucket")
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        return open_store(load(files_url=found.url(f"{request.node.name}/{prefix}")))

    return open_below


@pytest.fixture
def store(opened: Callable[[str], FileStore]) -> FileStore:
    return opened("some where")


async def write(store: FileStore, key: str, content: bytes, piece_bytes: int = 65_536) -> None:
    async with store.create(key) as writer:
        for place in range(0, len(content), piece_bytes):
            await writer.write(content[place : place + piece_bytes])


async def cut_off(store: FileStore, key: str, content: bytes) -> None:
    """Write as somebody does who then fails."""
    with suppress(Crash):
        async with store.create(key) as writer:
            await writer.write(content)
            raise Crash


async def read(store: FileStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, end)])


async def absent(store: FileStore, key: str) -> bool:
    try:
        await read(store, key)
    except FileMissing as error:
        return str(error) == key
    return False


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_url_chooses_the_store(
    opened: Callable[[str], FileStore], request: pytest.FixtureRequest
) -> None:
    local = request.node.callspec.params["opened"] == "local"
    assert type(opened("a")) is (LocalStore if local else ObjectStore)


@pytest.mark.parametrize("size", [0, 1, 65_536, PIECE_BYTES, len(BIG)])
async def test_what_is_written_is_read(store: FileStore, size: int) -> None:
    await write(store, "files/a", BIG[:size])
    pieces = [piece async for piece in store.read("files/a")]
    assert b"".join(pieces) == BIG[:size]
    assert all(type(piece) is bytes for piece in pieces)
    assert max(map(len, pieces), default=0) <= PIECE_BYTES


async def test_one_write_may_have_any_size(store: FileStore) -> None:
    await write(store, "files/a", BIG, len(BIG))
    assert hashlib.sha256(await read(store, "files/a")).digest() == hashlib.sha256(BIG).digest()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 4, b"0123"),
        (3, 5, b"34"),
        (7, None, b"789"),
        (8, 99, b"89"),
        (4, 4, b""),
        (5, 4, b""),
        (10, None, b""),
        (99, 100, b""),
    ],
)
async def test_a_range_is_read(
    store: FileStore, start: int, end: int | None, expected: bytes
) -> None:
    await write(store, "files/a", DIGITS)
    assert await read(store, "files/a", start, end) == expected


async def test_a_range_of_a_large_object_is_read(store: FileStore) -> None:
    await write(store, "files/a", BIG)
    for start, end in ((8_388_607, 8_388_609), (1, 16_777_217), (19_999_999, None)):
        assert await read(store, "files/a", start, end) == BIG[start:end]


async def test_an_object_is_not_there_before_its_end(store: FileStore) -> None:
    async with store.create("files/a") as writer:
        await writer.write(BIG)
        assert await absent(store, "files/a")
    assert not await absent(store, "files/a")


@pytest.mark.parametrize("content", [b"", DIGITS, BIG], ids=["empty", "small", "big"])
async def test_what_is_cut_off_never_appears(store: FileStore, content: bytes) -> None:
    await cut_off(store, "files/a", content)
    assert await absent(store, "files/a")


async def test_a_cancelled_writer_leaves_nothing(
    store: FileStore, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    written = asyncio.Event()

    async def writing() -> None:
        async with store.create("files/a") as writer:
            while True:
                await writer.write(BIG)
                written.set()

    task = asyncio.create_task(writing())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await absent(store, "files/a")
    assert files_below(tmp_path) == []
    if request.node.callspec.params["opened"] == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        assert not [key for key in bucket.unfinished() if request.node.name in key]


async def test_what_is_cut_off_leaves_the_object_of_before(store: FileStore) -> None:
    await write(store, "files/a", DIGITS)
    await cut_off(store, "files/a", BIG)
    assert await read(store, "files/a") == DIGITS


async def test_an_object_is_written_over(store: FileStore) -> None:
    await write(store, "files/a", BIG)
    await write(store, "files/a", DIGITS)
    assert await read(store, "files/a") == DIGITS


async def test_what_is_deleted_is_gone(store: FileStore) -> None:
    await write(store, "files/a", DIGITS)
    await store.delete("files/a")
    assert await absent(store, "files/a")


async def test_what_is_not_there_may_be_deleted(store: FileStore) -> None:
    await write(store, "files/b", DIGITS)
    await store.delete("files/a")
    await store.delete("nowhere/a")
    assert await read(store, "files/b") == DIGITS


@pytest.mark.parametrize(("start", "end"), [(0, None), (3, 9), (5, 5)])
async def test_what_is_not_there_cannot_be_read(
    store: FileStore, start: int, end: int | None
) -> None:
    with pytest.raises(FileMissing, match=r"^files/a$"):
        await read(store, "files/a", start, end)


async def test_stores_below_different_paths_share_nothing(
    opened: Callable[[str], FileStore],
) -> None:
    one, other = opened("one"), opened("other/deeper")
    await write(one, "files/a", b"one")
    assert await absent(other, "files/a")
    await write(other, "files/a", b"other")
    await other.delete("files/a")
    assert await read(opened("one"), "files/a") == b"one"


async def test_many_are_written_and_read_at_once(store: FileStore) -> None:
    contents = {f"files/{n}": BIG[n * 1000 : n * 1000 + 2_000_000] for n in range(16)}
    await asyncio.gather(*(write(store, key, content) for key, content in contents.items()))
    found = await asyncio.gather(*(read(store, key) for key in contents for _ in range(2)))
    assert found == [content for content in contents.values() for _ in range(2)]


async def test_a_reader_has_one_object_though_it_is_written_over(store: FileStore) -> None:
    """What it has read already and what follows is of one writing, or it is told."""
    await write(store, "files/a", b"A" * len(BIG))
    reading = store.read("files/a")
    got = [await anext(reading)]
    await write(store, "files/a", b"B" * len(BIG))
    try:
        got += [piece async for piece in reading]
    except StoreAway:
        pass
    else:
        assert sum(map(len, got)) == len(BIG)
    assert set(b"".join(got)) == {ord("A")}


async def test_a_writers_own_error_is_its_own(store: FileStore) -> None:
    with pytest.raises(FileNotFoundError, match="mine"):
        async with store.create("files/a"):
            raise FileNotFoundError("mine")


async def test_a_disk_that_takes_no_more_is_away(tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"no directory")
    store = LocalStore(tmp_path)
    with pytest.raises(StoreAway, match="files/a"):
        await write(store, "files/a", DIGITS)
    with pytest.raises(StoreAway):
        await store.delete("files/a")
    with pytest.raises(StoreAway):
        await read(store, "files/a")


async def test_a_bucket_that_cannot_be_reached_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3() as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store(load(files_url=own.url("a")))
        missing = open_store(load(files_url="s3://nowhere/a"))
        with pytest.raises(StoreAway, match="files/a"):
            await write(missing, "files/a", DIGITS)
        own.end()
        for attempt in (
            write(store, "files/a", DIGITS),
            write(store, "files/a", BIG),
            read(store, "files/a"),
            store.delete("files/a"),
        ):
            with pytest.raises(StoreAway, match="files/a") as caught:
                await attempt
            assert "something" not in str(caught.value)
            assert "\n" not in str(caught.value)
        own.begin()
        await write(store, "files/a", BIG)
        assert await read(store, "files/a") == BIG


def test_a_store_without_its_account_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    with pytest.raises(ConfigurationError, match=r"^files_url: ") as caught:
        open_store(load(files_url="az://container/path"))
    assert "c2VjcmV0" not in str(caught.value)
    assert "\n" not in str(caught.value)
