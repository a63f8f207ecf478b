"""The cleaning removes parts that no upload needs any more, and no other, wherever it ends."""

from typing import Any
from uuid import UUID

import pytest

from carpool.errors import StoreAway
from carpool.ids import new_id
from carpool.states import FileState, UploadState
from carpool.store.local import UNFINISHED
from db.files import file_key
from db.uploads import (
    abandon_part,
    begin_part,
    cancel_upload,
    clean_uploads,
    complete_upload,
    find_upload,
    finish_part,
    part_key,
    ready_parts,
)
from tests.integration.stored_files import TEAM, Failing, Files

pytest_plugins = ("tests.integration.db_fixtures",)


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
