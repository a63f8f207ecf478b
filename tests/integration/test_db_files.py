"""The cleaning removes what nobody can read any more, and nothing else, wherever it is cut off."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.errors import StoreAway
from carpool.ids import new_batch_id, new_id
from carpool.states import FileState, UploadState
from carpool.store.local import UNFINISHED, LocalStore
from db.files import (
    abandon_file,
    begin_file,
    clean_files,
    delete_file,
    file_key,
    find_file,
    finish_file,
)
from db.uploads import (
    abandon_part,
    begin_part,
    begin_upload,
    cancel_upload,
    clean_uploads,
    complete_upload,
    find_upload,
    finish_part,
    part_key,
    ready_parts,
)

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

TEAM = 1
KEY = UUID(int=1)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
OPEN_STATUSES = (0, 1, 2, 3)
ENDED_STATUSES = (4, 5, 6, 7)


class Files:
    """A store of files and parts, and their rows; each is made as its writer makes it."""

    def __init__(self, bench: "Bench", root: Path) -> None:
        self.bench = bench
        self.database = bench.database
        self.root = root
        self.store = LocalStore(root)

    def stored(self) -> list[str]:
        """The paths of all that the store has, half-written or whole."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found)

    async def put(self, key: str) -> None:
        async with self.store.create(key) as writer:
            await writer.write(b"any")

    def put_half(self, key: str) -> None:
        """What a writer leaves that was killed."""
        path = self.root / (key + UNFINISHED)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a")

    async def begun(self, writer: UUID) -> UUID:
        """A file without bytes."""
        identifier = new_id()
        await begin_file(
            self.database,
            identifier=identifier,
            team_id=TEAM,
            key_id=KEY,
            purpose="batch",
            filename="f",
            writer=writer,
            expires_at=None,
        )
        return identifier

    async def made(self, expires_at: datetime | None = None) -> UUID:
        """A file that may be read."""
        writer = await self.bench.process()
        identifier = await self.begun(writer)
        await self.put(file_key(identifier))
        assert await finish_file(
            self.database, identifier, size=3, writer=writer, expires_at=expires_at
        )
        return identifier

    async def batch(self, file: UUID, status: int) -> None:
        """A batch that reads a file."""
        await self.bench.sql(
            "insert into batches (id, team_id, key_id, endpoint, completion_window, input_file_id,"
            " input_file, fingerprint, status, expires_at)"
            " values ($1, $2, $3, 0, '24h', $4, $5, $6, $7, now())",
            *(new_batch_id(), TEAM, KEY, f"file-{file.hex}", file, UUID(int=2), status),
        )

    async def upload(self) -> UUID:
        """An upload that waits for its parts."""
        identifier = new_id()
        await begin_upload(
            self.database,
            identifier=identifier,
            team_id=TEAM,
            key_id=KEY,
            purpose="user_data",
            filename="f",
            mime_type="any",
            size=3,
            life_seconds=3600,
            file_expires_seconds=None,
        )
        return identifier

    async def part(self, upload: UUID, writer: UUID | None = None) -> UUID:
        """A whole part."""
        by = writer or await self.bench.process()
        identifier = await self.part_begun(upload, by)
        await self.put(part_key(identifier))
        assert await finish_part(self.database, identifier, size=3, writer=by)
        return identifier

    async def part_begun(self, upload: UUID, writer: UUID) -> UUID:
        """A part without bytes."""
        identifier = new_id()
        assert await begin_part(self.database, identifier, upload=upload, writer=writer)
        return identifier

    async def expire(self, upload: UUID) -> None:
        await self.bench.sql("update uploads set expires_at = $2 where id = $1", upload, LONG_AGO)

    async def end(self, process: UUID) -> None:
        await self.bench.sql("update processes set ended_at = now() where id = $1", process)

    async def rows(self, table: str = "files") -> dict[UUID, int]:
        """The states of all rows."""
        return {row["id"]: row["state"] for row in await self.bench.sql(f"select * from {table}")}

    async def clean(self) -> None:
        await clean_files(self.database, self.store)


class Failing(LocalStore):
    """Fails to delete, or is killed behind it, the first time."""

    def __init__(self, root: Path, *, deletes: bool) -> None:
        super().__init__(root)
        self._deletes = deletes

    async def delete(self, key: str) -> None:
        if self._deletes:
            await super().delete(key)
        raise StoreAway(key)


@pytest.fixture
def files(bench: "Bench", tmp_path: Path) -> Files:
    return Files(bench, tmp_path)


async def test_a_file_that_may_be_read_stays(files: Files) -> None:
    kept = [await files.made(), await files.made(datetime.now(UTC) + timedelta(hours=1))]
    await files.clean()
    assert await files.rows() == dict.fromkeys(kept, FileState.READY)
    assert files.stored() == sorted(file_key(file) for file in kept)


async def test_a_deleted_file_goes(files: Files) -> None:
    gone, kept = await files.made(), await files.made()
    assert await delete_file(files.database, gone, team_id=TEAM)
    await files.clean()
    assert list(await files.rows()) == [kept]
    assert files.stored() == [file_key(kept)]


async def test_an_expired_file_goes(files: Files) -> None:
    gone = await files.made(LONG_AGO)
    assert await find_file(files.database, gone, team_id=TEAM) is None
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


async def test_an_abandoned_file_goes(files: Files) -> None:
    writer = await files.bench.process()
    gone = await files.begun(writer)
    files.put_half(file_key(gone))
    await abandon_file(files.database, gone, writer=writer)
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


async def test_what_a_living_process_writes_stays(files: Files) -> None:
    writer = await files.bench.process()
    kept = await files.begun(writer)
    files.put_half(file_key(kept))
    await files.clean()
    assert await files.rows() == {kept: FileState.PENDING}
    assert files.stored() == [file_key(kept) + UNFINISHED]
    assert await finish_file(files.database, kept, size=1, writer=writer)


@pytest.mark.parametrize("whole", [False, True])
async def test_what_a_dead_process_wrote_goes(files: Files, whole: bool) -> None:
    """Also what it had written whole, and not noted."""
    writer = await files.bench.process()
    gone = await files.begun(writer)
    if whole:
        await files.put(file_key(gone))
    else:
        files.put_half(file_key(gone))
    await files.end(writer)
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])
    assert not await finish_file(files.database, gone, size=1, writer=writer)


async def test_what_was_taken_from_a_process_that_lives_after_all_is_not_finished(
    files: Files,
) -> None:
    """The cleaning has begun to remove the bytes: the row says so before."""
    writer = await files.bench.process()
    file = await files.begun(writer)
    await files.put(file_key(file))
    await files.end(writer)
    with pytest.raises(StoreAway):
        await clean_files(files.database, Failing(files.root, deletes=True))
    assert files.stored() == []
    assert not await finish_file(files.database, file, size=1, writer=writer)


@pytest.mark.parametrize("status", OPEN_STATUSES)
@pytest.mark.parametrize("how", ["deleted", "expired"])
async def test_an_open_batch_keeps_its_file(files: Files, status: int, how: str) -> None:
    file = await files.made(LONG_AGO if how == "expired" else None)
    await files.batch(file, status)
    if how == "deleted":
        assert await delete_file(files.database, file, team_id=TEAM)
    await files.clean()
    assert await files.rows() == {file: FileState.DELETED}
    assert files.stored() == [file_key(file)]
    await files.bench.sql("update batches set status = 4")
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


@pytest.mark.parametrize("status", ENDED_STATUSES)
async def test_an_ended_batch_keeps_nothing(files: Files, status: int) -> None:
    file = await files.made()
    await files.batch(file, status)
    await delete_file(files.database, file, team_id=TEAM)
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


@pytest.mark.parametrize("deletes", [False, True])
async def test_the_cleaning_of_files_is_cut_off_and_goes_on(files: Files, deletes: bool) -> None:
    """Between the bytes and the row, or before both."""
    gone = [await files.made() for _ in range(3)]
    for file in gone:
        await delete_file(files.database, file, team_id=TEAM)
    with pytest.raises(StoreAway):
        await clean_files(files.database, Failing(files.root, deletes=deletes))
    assert await files.rows() == dict.fromkeys(gone, FileState.DELETED)
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


async def test_what_one_call_cannot_see_at_once_is_cleaned_by_it_too(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.files.CHUNK_ROWS", 2)
    for _ in range(5):
        await delete_file(files.database, await files.made(), team_id=TEAM)
    await files.clean()
    assert (await files.rows(), files.stored()) == ({}, [])


async def test_a_pending_upload_keeps_its_parts(files: Files) -> None:
    upload = await files.upload()
    kept = [await files.part(upload) for _ in range(2)]
    await files.clean()
    assert list(await ready_parts(files.database, upload)) == kept
    assert files.stored() == sorted(part_key(part) for part in kept)


async def test_an_upload_expires_and_its_parts_go(files: Files) -> None:
    upload, other = await files.upload(), await files.upload()
    await files.part(upload)
    kept = await files.part(other)
    await files.expire(upload)
    await files.clean()
    assert await files.rows("uploads") == {
        upload: UploadState.EXPIRED,
        other: UploadState.PENDING,
    }
    assert list(await files.rows("upload_parts")) == [kept]
    assert files.stored() == [part_key(kept)]


async def test_a_cancelled_uploads_parts_go(files: Files) -> None:
    upload = await files.upload()
    await files.part(upload)
    await cancel_upload(files.database, upload, team_id=TEAM)
    await files.clean()
    assert await files.rows("uploads") == {upload: UploadState.CANCELLED}
    assert (await files.rows("upload_parts"), files.stored()) == ({}, [])


async def completed(files: Files, upload: UUID, writer: UUID) -> UUID:
    """The file that an upload has become."""
    file = await files.begun(writer)
    await files.put(file_key(file))
    assert await complete_upload(files.database, upload, **completion(file, writer))
    return file


def completion(file: UUID, writer: UUID) -> dict[str, Any]:
    return {"file": file, "size": 3, "writer": writer, "expires_at": None}


async def test_a_completed_upload_keeps_its_file_alone(files: Files) -> None:
    upload = await files.upload()
    await files.part(upload)
    file = await completed(files, upload, await files.bench.process())
    await files.clean()
    assert await files.rows("uploads") == {upload: UploadState.COMPLETED}
    assert await files.rows("upload_parts") == {}
    assert files.stored() == [file_key(file)]
    found = await find_upload(files.database, upload, team_id=TEAM)
    assert found is not None
    assert found.file_id == file


async def test_a_completion_that_was_killed_leaves_an_upload_to_complete(files: Files) -> None:
    """Its file goes, its parts stay, and another process makes the file."""
    upload = await files.upload()
    part = await files.part(upload)
    dead, living = await files.bench.process(), await files.bench.process()
    left = await files.begun(dead)
    await files.put(file_key(left))
    await files.end(dead)
    await files.clean()
    assert await files.rows() == {}
    assert files.stored() == [part_key(part)]
    assert not await complete_upload(files.database, upload, **completion(left, dead))
    assert await files.rows("uploads") == {upload: UploadState.PENDING}
    file = await completed(files, upload, living)
    assert await files.rows() == {file: FileState.READY}


@pytest.mark.parametrize("end", ["cancelled", "expired", "completed"])
async def test_an_upload_that_has_ended_is_not_completed(files: Files, end: str) -> None:
    upload, writer = await files.upload(), await files.bench.process()
    if end == "cancelled":
        await cancel_upload(files.database, upload, team_id=TEAM)
    elif end == "expired":
        await files.expire(upload)
    else:
        await completed(files, upload, writer)
    file = await files.begun(writer)
    assert not await complete_upload(files.database, upload, **completion(file, writer))
    assert (await files.rows())[file] == FileState.PENDING


@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_a_part_of_an_upload_that_has_ended_meanwhile_is_none(files: Files, end: str) -> None:
    """Its writer lives, so that it is left to it until it is abandoned."""
    upload, writer = await files.upload(), await files.bench.process()
    part = await files.part_begun(upload, writer)
    files.put_half(part_key(part))
    if end == "cancelled":
        await cancel_upload(files.database, upload, team_id=TEAM)
    else:
        await files.expire(upload)
    await files.clean()
    assert await files.rows("upload_parts") == {part: FileState.PENDING}
    assert files.stored() == [part_key(part) + UNFINISHED]
    assert await finish_part(files.database, part, size=1, writer=writer) is None
    assert not await begin_part(files.database, new_id(), upload=upload, writer=writer)
    await abandon_part(files.database, part, writer=writer)
    await files.clean()
    assert (await files.rows("upload_parts"), files.stored()) == ({}, [])


async def test_a_dead_writers_part_goes_though_its_upload_waits(files: Files) -> None:
    upload, writer = await files.upload(), await files.bench.process()
    kept = await files.part(upload, writer)
    gone = await files.part_begun(upload, writer)
    files.put_half(part_key(gone))
    await files.end(writer)
    await files.clean()
    assert await files.rows("upload_parts") == {kept: FileState.READY}
    assert files.stored() == [part_key(kept)]
    assert await finish_part(files.database, gone, size=1, writer=writer) is None


@pytest.mark.parametrize("deletes", [False, True])
async def test_the_cleaning_of_parts_is_cut_off_and_goes_on(files: Files, deletes: bool) -> None:
    upload = await files.upload()
    gone = [await files.part(upload) for _ in range(3)]
    await cancel_upload(files.database, upload, team_id=TEAM)
    with pytest.raises(StoreAway):
        await clean_uploads(files.database, Failing(files.root, deletes=deletes))
    assert await files.rows("upload_parts") == dict.fromkeys(gone, FileState.DELETED)
    await clean_uploads(files.database, files.store)
    assert (await files.rows("upload_parts"), files.stored()) == ({}, [])
