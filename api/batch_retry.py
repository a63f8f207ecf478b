"""A file of the lines of a batch that did not succeed, to be run again."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from api.services import Services
from carpool.errors import InvalidRequest
from carpool.ids import FILE_PREFIX, new_id, public_id
from carpool.lines import Lines
from carpool.states import ENDPOINTS
from carpool.windows import parse_window
from db.batch_results import unanswered_lines
from db.batches import NewBatch, Source, source_of
from db.files import begin_file, file_key, finish_file
from db.keys import Identity

PAGE_LINES = 1000
WRITE_BYTES = 1_000_000
FILE_LIFE = timedelta(days=30)


async def retried(services: Services, identity: Identity, batch: UUID) -> NewBatch:
    """Write the file, and say what batch to make of it; InvalidRequest without such lines."""
    source = await source_of(services.database, batch)
    file = new_id()
    await begin_file(
        services.database,
        identifier=file,
        team_id=identity.team_id,
        key_id=identity.key_id,
        purpose="batch",
        filename=f"batch_{batch.hex}_retry.jsonl",
        writer=services.incarnation,
        expires_at=datetime.now(UTC) + FILE_LIFE,
    )
    size = 0
    async with services.store.create(file_key(file)) as writer:
        async for piece in _pieces(services, batch, source):
            size += len(piece)
            await writer.write(piece)
        if not size:
            raise InvalidRequest("Every request of this batch succeeded, or none was ever valid.")
    await finish_file(services.database, file, size=size, writer=services.incarnation)
    return NewBatch(
        team_id=identity.team_id,
        key_id=identity.key_id,
        person=source.person,
        endpoint=source.endpoint,
        completion_window=source.completion_window,
        window_seconds=parse_window(source.completion_window).total_seconds(),
        input_file_id=public_id(FILE_PREFIX, file),
        input_file=file,
        metadata=source.metadata,
        output_expires_seconds=source.output_expires_seconds,
        priority=source.priority,
        dry_run=False,
        fingerprint=file,
    )


async def _pieces(services: Services, batch: UUID, source: Source) -> AsyncIterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    async for line in _lines(services, batch, source):
        waiting.append(line)
        size += len(line)
        if size >= WRITE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _lines(services: Services, batch: UUID, source: Source) -> AsyncIterator[bytes]:
    url = msgspec.json.encode(ENDPOINTS[source.endpoint])
    after = batch
    while True:
        page = await unanswered_lines(services.database, batch, after=after, limit=PAGE_LINES)
        for line in page:
            yield b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (
                line.custom_id.encode(),
                url,
                line.body,
            )
        if not page:
            break
        after = page[-1].id
    async for text in _never_queued(services, source):
        yield text


async def _never_queued(services: Services, source: Source) -> AsyncIterator[bytes]:
    if source.input_file is None or source.ingested >= source.total:
        return
    lines = Lines(
        limit_bytes=services.settings.max_body_bytes,
        number=source.ingested_line,
        offset=source.ingested_bytes,
    )
    async for piece in services.store.read(file_key(source.input_file), source.ingested_bytes):
        for line in lines.feed(piece):
            yield line.text + b"\n"
    for line in lines.finish():
        yield line.text + b"\n"
