"""The last job of a batch: its results become an output file and an error file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from carpool.batch_lines import decode_line, ended_line, stored_custom_id, unanswered_line
from carpool.errors import FileMissing
from carpool.ids import line_id, new_id
from carpool.states import BatchStatus, Outcome
from carpool.store import Writer
from db.batch_jobs import EndedLine, Job, end, ended_lines, settled
from db.batch_sweep import BATCH_CANCELLED, BATCH_EXPIRED, fold
from db.files import begin_file, file_key
from workers.jobs.context import JobContext
from workers.jobs.validation import lines_of

PAGE_LINES = 2000
WRITE_BYTES = 1_000_000
FOLD_SECONDS = 0.02
PURPOSE = "batch_output"
log = structlog.get_logger()


async def finalize(jobs: JobContext, job: Job) -> bool:
    """Write the files, and end the batch with them in one step; False while lines are at work.

    Cut off and begun again, it writes new files; those of the first time were never shown, and the
    cleaning removes them.
    """
    ended, counted = await settled(jobs.database, job.id)
    if not ended:
        return False
    while not counted:
        await asyncio.sleep(FOLD_SECONDS)
        await fold(jobs.database)
        _, counted = await settled(jobs.database, job.id)
    async with AsyncExitStack() as stack:
        output = _ResultFile(jobs, job, "output", stack)
        error = _ResultFile(jobs, job, "error", stack)
        async for line in _ended(jobs, job):
            file = output if line.outcome == Outcome.COMPLETED else error
            await file.write(
                ended_line(line.id, line.custom_id, line.outcome, line.status_code, line.body)
            )
        async for text in _never_queued(jobs, job):
            await error.write(text)
        await output.flush()
        await error.flush()
    if output.lines + error.lines != job.total:
        log.error(
            "lines_lost", batch=str(job.id), total=job.total, written=output.lines + error.lines
        )
    status = await end(
        jobs.database, job.id, jobs.process, output=output.written, error=error.written
    )
    return status is not None


class _ResultFile:
    """A file that is made when its first line comes, and whole when the stack is left."""

    def __init__(self, jobs: JobContext, job: Job, kind: str, stack: AsyncExitStack) -> None:
        self.lines = 0
        self._jobs = jobs
        self._job = job
        self._kind = kind
        self._stack = stack
        self._id: UUID | None = None
        self._writer: Writer | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._bytes = 0

    @property
    def written(self) -> tuple[UUID, int] | None:
        """The file's id and size; None where there was no line."""
        return None if self._id is None else (self._id, self._bytes)

    async def write(self, line: bytes) -> None:
        self.lines += 1
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        if self._waiting_bytes >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        if self._writer is None:
            self._writer = await self._create()
        await self._writer.write(b"".join(self._waiting))
        self._bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    async def _create(self) -> Writer:
        job, self._id = self._job, new_id()
        seconds = job.output_expires_seconds
        expires = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        await begin_file(
            self._jobs.database,
            identifier=self._id,
            team_id=job.team_id,
            key_id=job.key_id,
            purpose=PURPOSE,
            filename=f"batch_{job.id.hex}_{self._kind}.jsonl",
            writer=self._jobs.process,
            expires_at=expires,
        )
        return await self._stack.enter_async_context(self._jobs.store.create(file_key(self._id)))


async def _ended(jobs: JobContext, job: Job) -> AsyncIterator[EndedLine]:
    after = job.id
    lane = jobs.database.lane()
    try:
        while True:
            page = await ended_lines(lane, job.id, after=after, limit=PAGE_LINES)
            for line in page:
                yield line
            if not page:
                return
            after = page[-1].id
    finally:
        await lane.close()


async def _never_queued(jobs: JobContext, job: Job) -> AsyncIterator[bytes]:
    """The lines that a cancel or the end of the window found in the file, not in the queue."""
    if job.ingested == job.total:
        return
    cancelled = job.status is BatchStatus.CANCELLING
    ending = BATCH_CANCELLED if cancelled else BATCH_EXPIRED
    lines = lines_of(
        jobs.store,
        job,
        limit_bytes=jobs.settings.max_body_bytes,
        number=job.ingested_line,
        offset=job.ingested_bytes,
    )
    try:
        async for line in lines:
            custom_id = stored_custom_id(decode_line(line.text).custom_id)
            identifier = line_id(job.id, line.number)
            yield unanswered_line(identifier, custom_id, ending.code, ending.message)
    except FileMissing:
        log.error("input_file_lost", batch=str(job.id), file=job.input_file_id)
