"""Files: each transition one function. The bytes lie in the file store, under ``files/<id>``."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from carpool.store import FileStore
from db.database import Fetches
from db.uploads import clean_uploads

BEGIN = """
insert into files (id, team_id, key_id, purpose, filename, writer, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
"""
FINISH = """
update files set state = 1, bytes = $2, purpose = coalesce($4, purpose),
    expires_at = coalesce($5, expires_at)
where id = $1 and state = 0 and writer = $3
returning id
"""
ABANDON = "update files set state = 2 where id = $1 and state = 0 and writer = $2"
COLUMNS = "id, purpose, filename, bytes, created_at, expires_at"
VISIBLE = "team_id = $1 and state = 1 and (expires_at is null or expires_at > now())"
ONE = f"select {COLUMNS} from files where {VISIBLE} and id = $2"  # noqa: S608 - texts of our own
PAGE = f"""
select {COLUMNS} from files
where {VISIBLE} and ($2::text is null or purpose = $2) and ($3::uuid is null or id < $3)
order by id desc limit $4
"""  # noqa: S608
PAGE_FROM_THE_OLDEST = PAGE.replace("id < $3", "id > $3").replace("id desc", "id")
DELETE = """
update files set state = 2 where team_id = $1 and id = $2 and state = 1 returning id
"""
EXPIRE = """
update files set state = 2 where id = any(array(
    select id from files where state = 1 and expires_at <= now() order by expires_at limit $1
))
"""
# In a step of its own, before any byte is removed: who was only taken for dead cannot finish a file
# any more whose bytes are about to go. One that is just being begun has a living writer.
LOSE = """
update files set state = 2 where id = any(array(
    select f.id from files f
    where f.state = 0
        and not exists (select from processes p where p.id = f.writer and p.ended_at is null)
    limit $1
))
"""
LEFTOVER = """
select f.id from files f
where f.state = 2 and f.id > $1
    and not exists (
        select from batches b
        where b.input_file = f.id and b.status < 4
    )
order by f.id limit $2
"""
FORGET = "delete from files where id = $1 and state = 2"
CHUNK_ROWS = 1000


class FileView(msgspec.Struct, frozen=True):
    """A file as its team sees it."""

    id: UUID
    purpose: str
    filename: str
    bytes: int
    created_at: datetime
    expires_at: datetime | None


def file_key(identifier: UUID) -> str:
    """Where the store has a file."""
    return f"files/{identifier.hex}"


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


async def finish_file(
    database: Fetches,
    identifier: UUID,
    *,
    size: int,
    writer: UUID,
    purpose: str | None = None,
    expires_at: datetime | None = None,
) -> bool:
    """PENDING to READY, when the store has it whole; False where it was taken for a leftover.

    ``purpose`` and ``expires_at`` are given where they were not known when it was begun.
    """
    return bool(await database.fetch(FINISH, identifier, size, writer, purpose, expires_at))


async def abandon_file(database: Fetches, identifier: UUID, *, writer: UUID) -> None:
    """PENDING to DELETED: it will not be written."""
    await database.fetch(ABANDON, identifier, writer)


async def find_file(database: Fetches, identifier: UUID, *, team_id: int) -> FileView | None:
    """A file that may be read; None where the team has none of this id."""
    rows = await database.fetch(ONE, team_id, identifier)
    return FileView(*rows[0]) if rows else None


async def list_files(
    database: Fetches,
    *,
    team_id: int,
    purpose: str | None,
    after: UUID | None,
    limit: int,
    oldest_first: bool,
) -> list[FileView]:
    """A team's files, at most ``limit`` from the one after ``after`` on."""
    query = PAGE_FROM_THE_OLDEST if oldest_first else PAGE
    rows: Sequence[Any] = await database.fetch(query, team_id, purpose, after, limit)
    return [FileView(*row) for row in rows]


async def delete_file(database: Fetches, identifier: UUID, *, team_id: int) -> bool:
    """READY to DELETED; a batch that reads it reads on. False where there is none."""
    return bool(await database.fetch(DELETE, team_id, identifier))


async def clean_files(database: Fetches, store: FileStore) -> None:
    """Remove what nobody can read any more; cut off at any point, it is done by the next call."""
    await clean_uploads(database, store)
    for transition in (EXPIRE, LOSE):
        await database.fetch(transition, CHUNK_ROWS)
    after = UUID(int=0)
    while rows := await database.fetch(LEFTOVER, after, CHUNK_ROWS):
        for row in rows:
            after = row["id"]
            await store.delete(file_key(after))
            await database.fetch(FORGET, after)
