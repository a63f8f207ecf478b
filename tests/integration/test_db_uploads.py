"""An upload ends once, with its file or without, and its parts go with it; what is needed stays."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from carpool.ids import new_id
from carpool.states import UploadState
from carpool.store import FileStore
from carpool.store.local import LocalStore
from db.files import abandon_file, begin_file, clean_files, file_key, find_file, finish_file
from db.uploads import (
    UploadView,
    abandon_part,
    begin_part,
    begin_upload,
    cancel_upload,
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
BYTES = b"bytes"


class Uploads:
    """A team's uploads and files over a real store."""

    def __init__(self, bench: "Bench", root: Path) -> None:
        self.bench = bench
        self.database = bench.database
        self.root = root
        self.store: FileStore = LocalStore(root)

    async def begin(self) -> UUID:
        identifier = new_id()
        await begin_upload(
            self.database,
            identifier=identifier,
            team_id=TEAM,
            key_id=KEY,
            purpose="batch",
            filename="name",
            mime_type="text/plain",
            size=len(BYTES),
            life_seconds=3600,
            file_expires_seconds=None,
        )
        return identifier

    async def file(self, writer: UUID) -> UUID:
        """A PENDING one, its bytes in the store."""
        identifier = new_id()
        await begin_file(
            self.database,
            identifier=identifier,
            team_id=TEAM,
            key_id=KEY,
            purpose="batch",
            filename="name",
            writer=writer,
            expires_at=None,
        )
        await self._fill(file_key(identifier))
        return identifier

    async def part(self, upload: UUID, writer: UUID, *, finished: bool = True) -> UUID:
        identifier = new_id()
        assert await begin_part(self.database, identifier, upload=upload, writer=writer)
        await self._fill(part_key(identifier))
        if finished:
            assert await self.finish(identifier, writer)
        return identifier

    async def finish(self, part: UUID, writer: UUID) -> datetime | None:
        return await finish_part(self.database, part, size=len(BYTES), writer=writer)

    async def complete(self, upload: UUID, file: UUID, writer: UUID) -> bool:
        return await complete_upload(
            self.database, upload, file=file, size=len(BYTES), writer=writer, expires_at=None
        )

    async def seen(self, upload: UUID) -> UploadView:
        found = await find_upload(self.database, upload, team_id=TEAM)
        assert found is not None
        return found

    async def expire(self, upload: UUID) -> None:
        await self.bench.sql("update uploads set expires_at = now() where id = $1", upload)

    async def dead(self) -> UUID:
        identifier = await self.bench.process()
        await self.bench.sql("update processes set ended_at = now() where id = $1", identifier)
        return identifier

    async def rows(self) -> set[UUID]:
        found = await self.bench.sql("select id from files union all select id from upload_parts")
        return {row["id"] for row in found}

    def objects(self) -> set[UUID]:
        return {UUID(hex=path.name) for path in self.root.rglob("*") if path.is_file()}

    async def _fill(self, key: str) -> None:
        async with self.store.create(key) as writer:
            await writer.write(BYTES)


@pytest.fixture
def uploads(bench: "Bench", tmp_path: Path) -> Uploads:
    return Uploads(bench, tmp_path / "store")


async def test_of_two_completions_one_makes_the_file(uploads: Uploads) -> None:
    writer, upload = await uploads.bench.process(), await uploads.begin()
    part = await uploads.part(upload, writer)
    assert await ready_parts(uploads.database, upload) == {part: len(BYTES)}
    files = [await uploads.file(writer) for _ in range(2)]
    done = await asyncio.gather(*(uploads.complete(upload, file, writer) for file in files))
    assert sorted(done) == [False, True]
    seen = await uploads.seen(upload)
    assert (seen.state, seen.file_id) == (UploadState.COMPLETED, files[done.index(True)])
    found = [await find_file(uploads.database, file, team_id=TEAM) for file in files]
    assert [file is not None for file in found] == done
    await clean_files(uploads.database, uploads.store)
    assert await uploads.rows() == uploads.objects() == set(files)


async def test_a_completion_waits_for_a_cancel_that_came_first(uploads: Uploads) -> None:
    writer, upload = await uploads.bench.process(), await uploads.begin()
    file = await uploads.file(writer)
    lane = await uploads.bench.open_lane()
    await cancel_upload(lane, upload, team_id=TEAM)
    completing = asyncio.create_task(uploads.complete(upload, file, writer))
    await uploads.bench.until_blocked(await uploads.bench.blocked_pid())
    await lane.commit()
    assert not await completing
    assert (await uploads.seen(upload)).state is UploadState.CANCELLED
    assert await find_file(uploads.database, file, team_id=TEAM) is None


@pytest.mark.parametrize("why", ["cancelled", "expired", "taken for a leftover", "of another"])
async def test_what_cannot_be_completed_stays_as_it_is(uploads: Uploads, why: str) -> None:
    writer, upload = await uploads.bench.process(), await uploads.begin()
    file = await uploads.file(writer)
    match why:
        case "cancelled":
            await cancel_upload(uploads.database, upload, team_id=TEAM)
        case "expired":
            await uploads.expire(upload)
        case "taken for a leftover":
            await abandon_file(uploads.database, file, writer=writer)
        case _:
            writer = new_id()
    before = await uploads.seen(upload)
    assert not await uploads.complete(upload, file, writer)
    assert await uploads.seen(upload) == before
    assert await find_file(uploads.database, file, team_id=TEAM) is None


async def test_a_part_is_its_writers(uploads: Uploads) -> None:
    writer, upload = await uploads.bench.process(), await uploads.begin()
    part = await uploads.part(upload, writer, finished=False)
    assert await uploads.finish(part, new_id()) is None
    await abandon_part(uploads.database, part, writer=new_id())
    assert await uploads.finish(part, writer) is not None
    await abandon_part(uploads.database, part, writer=writer)
    assert await ready_parts(uploads.database, upload) == {part: len(BYTES)}


@pytest.mark.parametrize("kind", ["file", "part"])
async def test_who_was_taken_for_dead_cannot_finish_what_is_being_removed(
    uploads: Uploads, kind: str
) -> None:
    """It comes back while the bytes go: nothing is READY that has none."""
    writer, upload = await uploads.dead(), await uploads.begin()
    finished: list[bool] = []
    if kind == "file":
        pending = await uploads.file(writer)
    else:
        pending = await uploads.part(upload, writer, finished=False)

    class Late(LocalStore):
        async def delete(self, key: str) -> None:
            if kind == "file":
                done = await finish_file(uploads.database, pending, size=5, writer=writer)
            else:
                done = await uploads.finish(pending, writer) is not None
            finished.append(done)
            await super().delete(key)

    await clean_files(uploads.database, Late(uploads.root))
    assert finished == [False]
    assert await uploads.rows() == uploads.objects() == set()
