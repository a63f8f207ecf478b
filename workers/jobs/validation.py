"""The first job of a batch: its whole file is read and judged, before any line of it runs."""

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from msgspec import Raw

from carpool.batch_lines import BatchError, Inspection, Limits
from carpool.errors import FileMissing
from carpool.lines import Line, Lines
from carpool.settings import Settings
from carpool.states import ENDPOINTS
from carpool.store import FileStore
from db.batch_jobs import Job, begin, enqueued_tokens, fail, known_models
from db.files import file_key
from workers.jobs.context import JobContext


async def validate(jobs: JobContext, job: Job) -> bool:
    """VALIDATING to IN_PROGRESS or FAILED; False where the batch is no longer ours."""
    found = await inspect(jobs, job)
    if not found.errors and jobs.settings.max_enqueued_tokens is not None:
        assert found.model is not None
        enqueued = await enqueued_tokens(jobs.database, job, found.model)
        limit = jobs.settings.max_enqueued_tokens
        if enqueued + found.tokens > limit:
            found.errors.append(_too_many_tokens(found.model, job.team_id, limit))
    if found.errors:
        return await fail(jobs.database, job.id, jobs.process, error_list(found.errors))
    assert found.model is not None
    begun = await begin(
        jobs.database,
        job.id,
        jobs.process,
        model=found.model,
        total=found.total,
        tokens=found.tokens,
    )
    return begun is not None


async def inspect(
    jobs: JobContext, job: Job, take: Callable[[Raw], Awaitable[None]] | None = None
) -> Inspection:
    """Read a batch's file as far as it is of use; ``take`` is given each valid line's body."""
    inspection = Inspection(
        ENDPOINTS[job.endpoint], await known_models(jobs.database), limits(jobs.settings)
    )
    try:
        async for line in lines_of(jobs.store, job, limit_bytes=jobs.settings.max_body_bytes):
            body = inspection.inspect(line)
            if take is not None and body is not None:
                await take(body)
            if inspection.full:
                return inspection
    except FileMissing:
        message = f"Cannot find file {job.input_file_id[:100]}, or it is not of purpose 'batch'."
        error = BatchError(code="invalid_request", message=message, param="file_id")
        inspection.errors[:] = [error]
    inspection.finish()
    return inspection


async def lines_of(
    store: FileStore, job: Job, *, limit_bytes: int, number: int = 0, offset: int = 0
) -> AsyncIterator[Line]:
    """The lines of a batch's file, from behind a line on. Raises FileMissing."""
    if job.input_file is None:
        raise FileMissing(job.input_file_id)
    lines = Lines(limit_bytes=limit_bytes, number=number, offset=offset)
    async for piece in store.read(file_key(job.input_file), offset):
        for line in lines.feed(piece):
            yield line
    for line in lines.finish():
        yield line


def limits(settings: Settings) -> Limits:
    """Those that the operator has set."""
    return Limits(
        requests=settings.max_batch_requests,
        embedding_inputs=settings.max_batch_inputs,
        line_bytes=settings.max_body_bytes,
        errors=settings.max_batch_errors,
    )


def error_list(errors: list[BatchError]) -> str:
    """The JSON of ``errors.data``."""
    return msgspec.json.encode(errors).decode()


def _too_many_tokens(model: str, team_id: int, limit: int) -> BatchError:
    return BatchError(
        code="token_limit_exceeded",
        message=(
            f"Enqueued token limit reached for {model} in organization {team_id}. "
            f"Limit: {limit} enqueued tokens. Please try again once some in_progress batches have "
            "been completed."
        ),
    )
