"""The second job of a batch: its lines become requests that wait; work on them begins at once."""

import hashlib
from typing import Any
from uuid import UUID
from zlib import crc32

import msgspec

from carpool.batch_lines import PROMPT_FIELDS, decode_line, stored_custom_id
from carpool.ids import line_id
from carpool.lines import Line
from carpool.notices import Waiting
from carpool.prefix import prefix_key
from carpool.routing import SHARES, Route
from carpool.states import ENDPOINTS, Endpoint, ServiceClass
from db.batch_jobs import Job, QueuedLine, queue_lines
from db.routes import read_routing
from workers.jobs.context import JobContext
from workers.jobs.validation import lines_of

CHUNK_LINES = 2000
CHUNK_BYTES = 4_000_000
MAX_PERSON_LENGTH = 255


class _Body(msgspec.Struct):
    user: Any = None
    temperature: Any = None
    n: Any = None
    best_of: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode


async def ingest(jobs: JobContext, job: Job) -> bool:
    """Queue the lines that are not queued yet; False where the batch was stopped meanwhile.

    Each chunk commits with the place behind it, and a line's id follows from its number: cut off
    and begun again, or done by two at once, it makes no row twice.
    """
    assert job.model is not None
    routing = await read_routing(jobs.database)
    route = routing.routes.get(job.model, Route())
    backends = {leg.backend for leg in route.legs}
    bell = Waiting(job.model, ServiceClass.BATCH, job.team_id, -job.priority)
    queued = job.ingested
    chunk: list[QueuedLine] = []
    size = 0
    place: Line | None = None

    async def store() -> bool:
        nonlocal queued, size
        assert place is not None
        stored = await queue_lines(
            jobs.database,
            job.id,
            jobs.process,
            chunk,
            before=queued,
            last_line=place.number,
            last_byte=place.end,
        )
        if stored:
            queued, size = queued + len(chunk), 0
            chunk.clear()
            for backend in backends:
                jobs.doorbell.ring(backend, bell)
        return stored

    lines = lines_of(
        jobs.store,
        job,
        limit_bytes=jobs.settings.max_body_bytes,
        number=job.ingested_line,
        offset=job.ingested_bytes,
    )
    async for line in lines:
        place = line
        chunk.append(_queued(job, line, shared=route.shared))
        size += len(line.text)
        if (len(chunk) >= CHUNK_LINES or size >= CHUNK_BYTES) and not await store():
            return False
    return not chunk or await store()


def _queued(job: Job, line: Line, *, shared: bool) -> QueuedLine:
    read = decode_line(line.text)
    body = bytes(read.body)
    custom_id = stored_custom_id(read.custom_id)
    begin = body.find(b'"%b"' % PROMPT_FIELDS[ENDPOINTS[job.endpoint]].encode())
    known = _decode_body(body)
    return QueuedLine(
        line_id(job.id, line.number),
        job.person or _person(known),
        body,
        custom_id,
        crc32(custom_id.encode()) % SHARES if shared else None,
        prefix_key(body[max(begin, 0) :]),
        _twin(job, body) if _deterministic(job, known) else None,
    )


def _person(body: _Body) -> str | None:
    return body.user[:MAX_PERSON_LENGTH] if isinstance(body.user, str) else None


def _deterministic(job: Job, body: _Body) -> bool:
    """Whether asked again a line would be answered alike; as for single requests."""
    if ENDPOINTS[job.endpoint] is Endpoint.EMBEDDINGS:
        return True
    return body.temperature == 0 and body.n in (None, 1) and body.best_of in (None, 1)


def _twin(job: Job, body: bytes) -> UUID:
    """Of one batch alone: another may be cancelled, or be in less of a hurry."""
    return UUID(bytes=hashlib.sha256(job.id.bytes + body).digest()[:16])
