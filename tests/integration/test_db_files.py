"""The cleaning removes files that nobody can read any more, and no other, wherever it ends."""

from datetime import UTC, datetime, timedelta

import pytest

from carpool.errors import StoreAway
from carpool.states import FileState
from carpool.store.local import UNFINISHED
from db.files import abandon_file, clean_files, delete_file, file_key, find_file, finish_file
from tests.integration.stored_files import LONG_AGO, TEAM, Failing, Files

pytest_plugins = ("tests.integration.db_fixtures",)

OPEN_STATUSES = (0, 1, 2, 3)
ENDED_STATUSES = (4, 5, 6, 7)


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
