"""Uploads: files that come in parts, each part an object of its own until all become one file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from carpool.states import UploadState
from carpool.store import FileStore
from db.database import Fetches

BEGIN = """
insert into uploads (
    id, team_id, key_id, purpose, filename, mime_type, bytes, expires_at, file_expires_seconds
)
values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8), $9)
"""
ONE = """
select id, purpose, filename, bytes,
    case when state = 0 and expires_at <= now() then 3 else state end as state,
    created_at, expires_at, file_expires_seconds, file_id
from uploads where id = $1 and team_id = $2
"""
CANCEL = """
update uploads set state = 2 where id = $1 and team_id = $2 and state = 0 and expires_at > now()
"""
# The upload is locked, so that of two completions only one makes a file, and none makes it of an
# upload that was cancelled meanwhile; without the file, the upload stays as it is.
COMPLETE = """
with upload as (
    select id from uploads where id = $1 and state = 0 and expires_at > now() for update
), file as (
    update files set state = 1, bytes = $3, expires_at = $5
    where id = $2 and state = 0 and writer = $4 and exists (select from upload)
    returning id
)
update uploads set state = 1, file_id = $2 where id = $1 and exists (select from file)
returning id
"""
BEGIN_PART = """
insert into upload_parts (id, upload_id, writer)
select $1, id, $3 from uploads where id = $2 and state = 0 and expires_at > now()
returning id
"""
FINISH_PART = """
update upload_parts p set state = 1, bytes = $2
from uploads u
where p.id = $1 and p.state = 0 and p.writer = $3
    and u.id = p.upload_id and u.state = 0 and u.expires_at > now()
returning p.created_at
"""
ABANDON_PART = "update upload_parts set state = 2 where id = $1 and state = 0 and writer = $2"
PARTS = "select id, bytes from upload_parts where upload_id = $1 and state = 1"
EXPIRE = """
update uploads set state = 3 where id = any(array(
    select id from uploads where state = 0 and expires_at <= now() order by expires_at limit $1
))
"""
# In a step of its own: whom this takes a part from cannot finish it any more.
LOSE_PARTS = """
update upload_parts set state = 2 where id = any(array(
    select p.id from upload_parts p
    where p.state = 0
        and not exists (select from processes w where w.id = p.writer and w.ended_at is null)
    limit $1
))
"""
DROP_PARTS = """
update upload_parts set state = 2 where id = any(array(
    select p.id from upload_parts p join uploads u on u.id = p.upload_id
    where p.state = 1 and u.state <> 0
    limit $1
))
"""
LEFTOVER_PARTS = "select id from upload_parts where state = 2 and id > $1 order by id limit $2"
FORGET_PART = "delete from upload_parts where id = $1 and state = 2"
CHUNK_ROWS = 1000


class UploadView(msgspec.Struct, frozen=True):
    """An upload as its team sees it; ``file_id`` is the file's that it became."""

    id: UUID
    purpose: str
    filename: str
    bytes: int
    state: UploadState
    created_at: datetime
    expires_at: datetime
    file_expires_seconds: int | None
    file_id: UUID | None


def part_key(identifier: UUID) -> str:
    """Where the store has a part."""
    return f"parts/{identifier.hex}"


async def begin_upload(
    database: Fetches,
    *,
    identifier: UUID,
    team_id: int,
    key_id: UUID,
    purpose: str,
    filename: str,
    mime_type: str,
    size: int,
    life_seconds: float,
    file_expires_seconds: int | None,
) -> None:
    """A PENDING upload of ``size`` bytes in all, which ends unless it is completed in time."""
    await database.fetch(
        BEGIN,
        *(identifier, team_id, key_id, purpose, filename, mime_type, size),
        *(life_seconds, file_expires_seconds),
    )


async def find_upload(database: Fetches, identifier: UUID, *, team_id: int) -> UploadView | None:
    """An upload in whatever state; None where the team has none of this id."""
    rows = await database.fetch(ONE, identifier, team_id)
    return msgspec.convert(dict(rows[0]), UploadView) if rows else None


async def cancel_upload(database: Fetches, identifier: UUID, *, team_id: int) -> None:
    """PENDING to CANCELLED; one that has ended stays as it is."""
    await database.fetch(CANCEL, identifier, team_id)


async def complete_upload(
    database: Fetches,
    identifier: UUID,
    *,
    file: UUID,
    size: int,
    writer: UUID,
    expires_at: datetime | None,
) -> bool:
    """PENDING to COMPLETED, and its file from PENDING to READY, in one step.

    False where another ended the upload first, or the file was taken for a leftover.
    """
    return bool(await database.fetch(COMPLETE, identifier, file, size, writer, expires_at))


async def begin_part(database: Fetches, identifier: UUID, *, upload: UUID, writer: UUID) -> bool:
    """Note a part before its bytes are written; False where the upload has ended."""
    return bool(await database.fetch(BEGIN_PART, identifier, upload, writer))


async def finish_part(
    database: Fetches, identifier: UUID, *, size: int, writer: UUID
) -> datetime | None:
    """PENDING to READY, when the store has it whole; None where its upload ended meanwhile."""
    rows = await database.fetch(FINISH_PART, identifier, size, writer)
    return rows[0]["created_at"] if rows else None


async def abandon_part(database: Fetches, identifier: UUID, *, writer: UUID) -> None:
    """PENDING to DELETED: it will not be written."""
    await database.fetch(ABANDON_PART, identifier, writer)


async def ready_parts(database: Fetches, upload: UUID) -> dict[UUID, int]:
    """The sizes of an upload's whole parts."""
    rows: Sequence[Any] = await database.fetch(PARTS, upload)
    return {row["id"]: row["bytes"] for row in rows}


async def clean_uploads(database: Fetches, store: FileStore) -> None:
    """Expire uploads whose time is up, and remove the parts that no upload needs any more.

    Cut off at any point, it is done by the next call.
    """
    for transition in (EXPIRE, LOSE_PARTS, DROP_PARTS):
        await database.fetch(transition, CHUNK_ROWS)
    after = UUID(int=0)
    while rows := await database.fetch(LEFTOVER_PARTS, after, CHUNK_ROWS):
        for row in rows:
            after = row["id"]
            await store.delete(part_key(after))
            await database.fetch(FORGET_PART, after)
