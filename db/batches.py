"""Batches as their owners see them, and the transitions that clients ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from carpool.ids import new_batch_id
from carpool.states import BatchStatus
from db.database import Fetches

# The file's row is locked, so that no delete of it overlooks this batch.
CREATE = """
insert into batches (
    id, team_id, key_id, person, endpoint, completion_window, input_file_id, metadata,
    output_expires_seconds, priority, dry_run, fingerprint, expires_at, input_file
)
select
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + make_interval(secs => $13),
    (
        select f.id from files f
        where f.id = $14 and f.team_id = $2 and f.state = 1 and f.purpose = 'batch'
            and (f.expires_at is null or f.expires_at > now())
        for share
    )
"""
VIEW = """
select
    b.*, coalesce(c.completed, 0) as completed, coalesce(c.failed, 0) as failed,
    coalesce(c.cancelled, 0) as cancelled, coalesce(c.expired, 0) as expired,
    coalesce(c.prompt_tokens, 0) as prompt_tokens, coalesce(c.cached_tokens, 0) as cached_tokens,
    coalesce(c.completion_tokens, 0) as completion_tokens
from batches b left join batch_counts c on c.batch_id = b.id
"""
ONE = VIEW + "where b.id = $1 and b.team_id = $2"
PAGE = (
    VIEW
    + """
where b.team_id = $1 and not b.dry_run and ($2::uuid is null or b.id < $2)
order by b.id desc limit $3
"""
)
# A batch without a queued line ends at once; of another the sweep ends what is left, and then the
# finalizer writes its files.
CANCEL = """
update batches set
    status = case when status = 0 then 7 else 3 end, cancelling_at = now(),
    cancelled_at = case when status = 0 then now() end
where id = $1 and team_id = $2 and status in (0, 1, 2)
returning id
"""
# What a client asked for and was told nothing of: a retry gets the same batch.
UNDELIVERED = """
select b.id from batches b
where b.team_id = $1 and b.fingerprint = $2 and b.created_at > now() - interval '1 hour'
    and not exists (select from deliveries d where d.id = b.id)
order by b.id limit 1
"""
SOURCE = """
select person, endpoint, completion_window, input_file, metadata, output_expires_seconds, priority,
    total, ingested, ingested_line, ingested_bytes
from batches where id = $1
"""
FORGET = "delete from batches where id = $1 and dry_run"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewBatch:
    """What a client asks for; ``metadata`` is JSON."""

    team_id: int
    key_id: UUID
    person: str | None
    endpoint: int
    completion_window: str
    window_seconds: float
    input_file_id: str
    """As the client wrote it."""
    input_file: UUID | None
    """What it names; None where that can be no file."""
    metadata: str | None
    output_expires_seconds: int | None
    priority: int
    dry_run: bool
    fingerprint: UUID


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A batch now; its counts are those that are folded, at most a moment old."""

    id: UUID
    status: BatchStatus
    endpoint: int
    completion_window: str
    input_file_id: str
    metadata: str | None
    priority: int
    model: str | None
    errors: str | None
    report: str | None
    total: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    output_file_id: UUID | None
    error_file_id: UUID | None
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.status >= BatchStatus.COMPLETED


class Source(msgspec.Struct, frozen=True):
    """What another batch is made from: the columns of an ended one."""

    person: str | None
    endpoint: int
    completion_window: str
    input_file: UUID | None
    metadata: str | None
    output_expires_seconds: int | None
    priority: int
    total: int
    ingested: int
    ingested_line: int
    ingested_bytes: int


async def create_batch(database: Fetches, new: NewBatch) -> UUID:
    """Store a batch that waits to be validated; its id."""
    while True:
        identifier = new_batch_id()
        try:
            await store_batch(new, identifier, database)
        except asyncpg.UniqueViolationError:  # two of one millisecond
            continue
        return identifier


async def store_batch(new: NewBatch, identifier: UUID, database: Fetches) -> None:
    """Store a batch under an id; UniqueViolationError of asyncpg where there is such a one."""
    await database.fetch(
        CREATE,
        identifier,
        new.team_id,
        new.key_id,
        new.person,
        new.endpoint,
        new.completion_window,
        new.input_file_id,
        new.metadata,
        new.output_expires_seconds,
        new.priority,
        new.dry_run,
        new.fingerprint,
        new.window_seconds,
        new.input_file,
    )


async def find_batch(database: Fetches, identifier: UUID, *, team_id: int) -> BatchView | None:
    """One batch of a team; None where it has none of this id."""
    rows = await database.fetch(ONE, identifier, team_id)
    return batch_view(rows[0]) if rows else None


async def list_batches(
    database: Fetches, *, team_id: int, after: UUID | None, limit: int
) -> list[BatchView]:
    """A team's batches, newest first, at most ``limit`` from the one after ``after`` on."""
    return [batch_view(row) for row in await database.fetch(PAGE, team_id, after, limit)]


async def cancel_batch(database: Fetches, identifier: UUID, *, team_id: int) -> bool:
    """Let nothing more of a batch be claimed; False where it is cancelled already, or has ended."""
    return bool(await database.fetch(CANCEL, identifier, team_id))


async def undelivered_batch(database: Fetches, *, team_id: int, fingerprint: UUID) -> UUID | None:
    """A batch that was created by the same words, and whose creation nobody was told of."""
    rows: Sequence[Any] = await database.fetch(UNDELIVERED, team_id, fingerprint)
    return rows[0]["id"] if rows else None


async def source_of(database: Fetches, identifier: UUID) -> Source:
    """What a retry of a batch starts from."""
    rows = await database.fetch(SOURCE, identifier)
    return Source(*rows[0])


async def forget_dry_run(database: Fetches, identifier: UUID) -> None:
    """Remove a dry run, whose report was read."""
    await database.fetch(FORGET, identifier)


def batch_view(row: Any) -> BatchView:
    """A row of `VIEW` as a batch."""
    values = {field: row[field] for field in BatchView.__struct_fields__}
    return BatchView(**values | {"status": BatchStatus(row["status"])})
