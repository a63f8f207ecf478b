"""Files: each transition one function. The bytes lie in the file store, under ``files/<id>``."""

from datetime import datetime
from uuid import UUID

import msgspec

from carpool.store import FileStore
from db.database import Database, Fetches

BEGIN = """
insert into files (id, team_id, key_id, purpose, filename, writer, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
"""
FINISH = """
update files set state = 1, bytes = $2 where id = $1 and state = 0 and writer = $3 returning id
"""
ONE = """
select id, purpose, filename, bytes, created_at, expires_at from files
where id = $1 and team_id = $2 and state = 1 and (expires_at is null or expires_at > now())
"""


class FileView(msgspec.Struct, frozen=True):
    """A file as its team sees it."""

    id: UUID
    purpose: str
    filename: str
    bytes: int
    created_at: datetime
    expires_at: datetime | None


async def begin_file(
    database: Fetches,
    *,
    identifier: UUID,
    team_id: int,
    key_id: UUID,
    purpose: str,
    filename: str,
    writer: UUID,
    expires_at: datetime | None,
) -> None:
    """Note a file before its bytes are written, so that what a crash leaves of it is found."""
    await database.fetch(BEGIN, identifier, team_id, key_id, purpose, filename, writer, expires_at)


async def finish_file(database: Fetches, identifier: UUID, *, size: int, writer: UUID) -> bool:
    """PENDING to READY, when the store has it whole; False where it was taken for a leftover."""
    return bool(await database.fetch(FINISH, identifier, size, writer))


async def find_file(database: Fetches, identifier: UUID, *, team_id: int) -> FileView | None:
    """A file that may be read; None where the team has none of this id."""
    rows = await database.fetch(ONE, identifier, team_id)
    return FileView(*rows[0]) if rows else None


async def clean_files(database: Database, store: FileStore) -> None:
    """Remove what nobody can read any more."""
