"""Moves batches on, each by one job at a time: validated, then queued, then written to files."""

import asyncio
from uuid import UUID

import structlog

from carpool.errors import CarpoolError
from carpool.log import cause
from carpool.notices import BATCHES_CHANNEL
from carpool.states import BatchStatus
from db.batch_jobs import Job, disown, own
from workers.jobs.context import JobContext
from workers.jobs.dry_run import dry_run
from workers.jobs.finalization import finalize
from workers.jobs.ingestion import ingest
from workers.jobs.validation import validate

AT_ONCE = 4
RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0
log = structlog.get_logger()


class Advance:
    """The jobs of this process. Each step takes the batch over, and says whether it moved it on."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._again: set[UUID] = set()

    def begin(self, batch: UUID) -> None:
        """Move a batch on as far as it goes; once more at the end where a job has it already."""
        if batch in self._tasks:
            self._again.add(batch)
            return
        self._tasks[batch] = asyncio.create_task(self._serve(batch))

    async def close(self) -> None:
        """Cut all jobs off. What they have committed stands, and the sweep sees to the rest."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, batch: UUID) -> None:
        """Work until there is nothing to do: what this process owns, no other will take over."""
        pause = RETRY_SECONDS
        try:
            while True:
                self._again.discard(batch)
                try:
                    async with self._slots:
                        await self._advance(batch)
                    if batch not in self._again:
                        return
                    continue
                except (CarpoolError, OSError) as error:
                    log.warning("job_failed", batch=str(batch), error=cause(error))
                except Exception:
                    log.exception("job_bug", batch=str(batch))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY_SECONDS)
        finally:
            self._again.discard(batch)
            del self._tasks[batch]

    async def _advance(self, batch: UUID) -> None:
        database, process = self._context.database, self._context.process
        try:
            while (job := await own(database, batch, process)) is not None:
                if not await self._step(job):
                    return
                self._context.doorbell.tell_of_batches(BATCHES_CHANNEL, [batch])
        finally:
            await disown(database, batch, process)

    async def _step(self, job: Job) -> bool:
        if job.status is BatchStatus.VALIDATING:
            return await (dry_run if job.dry_run else validate)(self._context, job)
        if job.status is BatchStatus.IN_PROGRESS:
            return job.ingested < job.total and await ingest(self._context, job)
        return await finalize(self._context, job)
