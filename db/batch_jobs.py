"""How a job moves a batch on: each transition names the owner and the status that it leaves.

A batch is owned by the process whose job works on it. An owner that died owns nothing; one that was
taken for dead finds each of its transitions refused.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from carpool.ids import line_bounds
from carpool.states import BatchStatus
from db.database import Fetches
from db.pages import bounded
from db.sql import load

OWN = """
update batches b set owner = $2
where b.id = $1 and b.status < 4 and (
    b.owner is null or b.owner = $2
    or not exists (select from processes p where p.id = b.owner and p.ended_at is null)
)
returning b.*
"""
DISOWN = "update batches set owner = null where id = $1 and owner = $2"
FAIL = """
update batches set status = 5, failed_at = now(), errors = $3, owner = null
where id = $1 and owner = $2 and status = 0
returning id
"""
REPORT = """
update batches set status = 4, completed_at = now(), model = $3, total = $4, errors = $5,
    report = $6, owner = null
where id = $1 and owner = $2 and status = 0 and dry_run
returning id
"""
BEGIN = """
update batches set status = 1, in_progress_at = now(), model = $3, total = $4, tokens = $5
where id = $1 and owner = $2 and status = 0
returning *
"""
ENQUEUED = """
select coalesce(sum(tokens), 0) from batches
where team_id = $1 and model = $2 and status in (1, 3) and id <> $3
"""
MODELS = "select model from routes"
QUEUE_LINES = load("queue_lines")
SETTLED = """
select not exists (select from queue q where q.id between $1 and $2) as ended,
    not exists (select from deltas d where d.batch_id = $1) as counted
"""
LINES = bounded(
    """
select r.id, r.custom_id, s.outcome, s.status_code, s.body
from results s join requests r on r.id = s.id
where s.id > $1 and s.id <= $2
order by s.id limit $3
""",
    order="id",
)
# With its files or not at all: those of a process that was taken for dead may be cleaned away.
END = """
with mine as (
    select id from files where id = any($4) and state = 0 for update
), ended as (
    update batches set
        status = case when status = 3 then 7 when expiring then 6 else 4 end,
        cancelled_at = case when status = 3 then now() end,
        expired_at = case when status = 2 and expiring then now() end,
        completed_at = case when status = 2 and not expiring then now() end,
        finalizing_at = coalesce(finalizing_at, now()),
        output_file_id = $6, error_file_id = $7, owner = null
    where id = $1 and owner = $2 and status = any($3::smallint[])
        and (select count(*) from mine) = cardinality($4::uuid[])
    returning status
), written as (
    update files set state = 1, bytes = f.bytes
    from unnest($4::uuid[], $5::bigint[]) as f(id, bytes), ended
    where files.id = f.id
)
select status from ended
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as its job sees it, when it took it over."""

    id: UUID
    team_id: int
    key_id: UUID
    person: str | None
    endpoint: int
    input_file_id: str
    input_file: UUID | None
    """None where the team has no such file."""
    output_expires_seconds: int | None
    priority: int
    dry_run: bool
    status: BatchStatus
    expiring: bool
    model: str | None
    total: int
    ingested: int
    ingested_line: int
    ingested_bytes: int
    expires_at: datetime


class QueuedLine(msgspec.Struct, frozen=True):
    """A line that becomes a request; ``custom_id`` as it is stored."""

    id: UUID
    person: str | None
    body: bytes
    custom_id: str
    share: int | None
    prefix_key: int
    twin: UUID | None
    """What identical lines of the batch have in common, where they are answered alike."""


class EndedLine(msgspec.Struct, frozen=True):
    """A line whose request has ended."""

    id: UUID
    custom_id: str
    outcome: int
    status_code: int
    body: bytes


async def own(database: Fetches, batch: UUID, process: UUID) -> Job | None:
    """Take an open batch over; None where another living process has it, or it has ended."""
    rows = await database.fetch(OWN, batch, process)
    return _job(rows[0]) if rows else None


async def disown(database: Fetches, batch: UUID, process: UUID) -> None:
    """Leave a batch to whoever moves it on."""
    await database.fetch(DISOWN, batch, process)


async def fail(database: Fetches, batch: UUID, process: UUID, errors: str) -> bool:
    """VALIDATING to FAILED; ``errors`` is the JSON of its list."""
    return bool(await database.fetch(FAIL, batch, process, errors))


async def report(
    database: Fetches,
    batch: UUID,
    process: UUID,
    *,
    model: str | None,
    total: int,
    errors: str | None,
    report: str,
) -> bool:
    """End a dry run."""
    return bool(await database.fetch(REPORT, batch, process, model, total, errors, report))


async def begin(
    database: Fetches, batch: UUID, process: UUID, *, model: str, total: int, tokens: int
) -> Job | None:
    """VALIDATING to IN_PROGRESS: every line is valid. None where it was cancelled meanwhile."""
    rows = await database.fetch(BEGIN, batch, process, model, total, tokens)
    return _job(rows[0]) if rows else None


async def enqueued_tokens(database: Fetches, job: Job, model: str) -> int:
    """Estimated tokens of the team's other batches of the model that are at work."""
    rows = await database.fetch(ENQUEUED, job.team_id, model, job.id)
    return int(rows[0][0])


async def known_models(database: Fetches) -> set[str]:
    """The models that a route leads to."""
    return {row["model"] for row in await database.fetch(MODELS)}


async def queue_lines(
    database: Fetches,
    batch: UUID,
    process: UUID,
    lines: Sequence[QueuedLine],
    *,
    before: int,
    last_line: int,
    last_byte: int,
) -> bool:
    """Queue lines, with the place where the file is to be read on.

    False, and nothing stored, where the batch was cancelled, has expired, is another's, or more or
    less than ``before`` lines are queued already.
    """
    rows = await database.fetch(
        QUEUE_LINES,
        batch,
        process,
        before,
        len(lines),
        last_line,
        last_byte,
        [line.id for line in lines],
        [line.person for line in lines],
        [line.body for line in lines],
        [line.custom_id for line in lines],
        [line.share for line in lines],
        [line.prefix_key for line in lines],
        [line.twin for line in lines],
    )
    return bool(rows)


async def settled(database: Fetches, batch: UUID) -> tuple[bool, bool]:
    """Whether every queued line has ended, and whether all of them are counted."""
    rows = await database.fetch(SETTLED, *line_bounds(batch))
    return rows[0]["ended"], rows[0]["counted"]


async def ended_lines(
    database: Fetches, batch: UUID, *, after: UUID, limit: int
) -> list[EndedLine]:
    """A page of the lines that have ended, in the order of the input file, behind an id."""
    rows = await database.fetch(LINES, after, line_bounds(batch)[1], limit)
    return [EndedLine(*row[:-1]) for row in rows]


async def end(
    database: Fetches,
    batch: UUID,
    process: UUID,
    *,
    output: tuple[UUID, int] | None,
    error: tuple[UUID, int] | None,
) -> BatchStatus | None:
    """FINALIZING or CANCELLING to its end, in one step with its files (id and bytes)."""
    files = [file for file in (output, error) if file is not None]
    rows = await database.fetch(
        END,
        batch,
        process,
        [BatchStatus.FINALIZING, BatchStatus.CANCELLING],
        [file[0] for file in files],
        [file[1] for file in files],
        output and output[0],
        error and error[0],
    )
    return BatchStatus(rows[0]["status"]) if rows else None


def _job(row: Any) -> Job:
    values = {field: row[field] for field in Job.__struct_fields__}
    return Job(**values | {"status": BatchStatus(row["status"])})
