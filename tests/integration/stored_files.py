"""Files and the parts of uploads in a real store, with their rows, as their writers make them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from carpool.errors import StoreAway
from carpool.ids import new_batch_id, new_id
from carpool.store.local import UNFINISHED, LocalStore
from db.files import begin_file, clean_files, file_key, finish_file
from db.uploads import begin_part, begin_upload, finish_part, part_key

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

TEAM = 1
KEY = UUID(int=1)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


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
