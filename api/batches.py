"""`/v1/batches`: OpenAI's Batch API, and what goes beyond it."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.batch_body import PATH, read_batch
from api.batch_objects import batch_object, dry_run_object
from api.batch_progress import Progress
from api.batch_retry import retried
from api.bodies import read_body
from api.idempotency import key_of, stored_once
from api.query import limit_of, wait_of
from api.responses import JSON, event_stream, listing
from api.services import Services
from carpool.batch_lines import ended_line
from carpool.errors import Conflict, InvalidRequest, NotFound, Unavailable
from carpool.ids import BATCH_PREFIX, new_batch_id, parse_public_id
from carpool.notices import BATCHES_CHANNEL
from carpool.states import BatchStatus
from db.batch_results import Cursor, finished_lines
from db.batches import (
    BatchView,
    NewBatch,
    cancel_batch,
    create_batch,
    find_batch,
    forget_dry_run,
    list_batches,
    store_batch,
    undelivered_batch,
)
from db.files import find_file
from db.keys import Identity
from db.pages import PAGE_BYTES
from db.sweeper import dispatch_jobs

MAX_PAGE = 100
MAX_LINES = 10_000
DEFAULT_LINES = 1000
DRY_RUN_SECONDS = 300.0
EVENT_SECONDS = 1.0
"""Events of one connection come at most so often, but for the last."""
DONE: Final = (BatchStatus.COMPLETED, BatchStatus.FAILED)


async def create(request: Request) -> Response:
    """``POST /v1/batches``; with ``?dry_run=true`` the file is judged, and nothing started."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    raw = await read_body(
        request,
        limit_bytes=services.settings.max_body_bytes,
        stall_seconds=services.settings.stall_seconds,
    )
    dry_run = _flag(request, "dry_run")
    new = read_batch(raw, identity, dry_run=dry_run)
    if dry_run:
        return JSON(await _dry_run(services, request, new))
    return await started(services, identity, await _created(services, request, new))


async def started(services: Services, identity: Identity, identifier: UUID) -> Response:
    """Have a new batch worked on, and tell its creator, of which a note is kept."""
    await dispatch_jobs(services.doorbell, services.broker, [identifier])
    seen = await _seen(services, identity, identifier)
    return JSON(batch_object(seen), written=lambda: services.note_delivery(identifier))


async def retrieve(request: Request) -> Response:
    """``GET /v1/batches/{id}?wait=SECONDS``: at once, or when it changes, or the time is up."""
    services, identity, identifier = await _addressed(request)
    seconds = wait_of(request.query_params)
    seen = await _seen(services, identity, identifier)
    if seconds:
        seen = await _until(
            services, identity, seen, seconds, lambda now: _state(now) != _state(seen)
        )
    return JSON(batch_object(seen))


async def list_all(request: Request) -> Response:
    """``GET /v1/batches?after=&limit=``: newest first, paged by id."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    limit = limit_of(request.query_params, most=MAX_PAGE)
    after = request.query_params.get("after")
    found = await list_batches(
        services.database,
        team_id=identity.team_id,
        after=None if after is None else parse_public_id(BATCH_PREFIX, after),
        limit=limit + 1,
    )
    data = [batch_object(seen) for seen in found[:limit]]
    return listing(data, has_more=len(found) > limit)


async def cancel(request: Request) -> Response:
    """``POST /v1/batches/{id}/cancel``: one write; what is left of it is ended by the sweep."""
    services, identity, identifier = await _addressed(request)
    return JSON(batch_object(await cancelled(services, identity, identifier)))


async def cancelled(services: Services, identity: Identity, identifier: UUID) -> BatchView:
    """A batch that is cancelled, by this if not before; raises Conflict where it has ended."""
    stopped = await cancel_batch(services.database, identifier, team_id=identity.team_id)
    seen = await _seen(services, identity, identifier)
    if stopped:
        services.doorbell.tell_of_batches(BATCHES_CHANNEL, [identifier])
        await dispatch_jobs(services.doorbell, services.broker, [identifier])
    elif seen.status in (*DONE, BatchStatus.EXPIRED):
        status = seen.status.name.lower()
        raise Conflict(f"Cannot cancel a batch with status '{status}'.", code="invalid_state")
    return seen


async def events(request: Request) -> Response:
    """``GET /v1/batches/{id}/events``: the batch with its progress at each change, by SSE."""
    services, identity, identifier = await _addressed(request)
    seen = await _seen(services, identity, identifier)
    return event_stream(_changes(services, identity, seen))


async def results(request: Request) -> Response:
    """``GET /v1/batches/{id}/results?after=&limit=``: lines that have ended, as JSONL.

    In the order in which they ended. ``x-next-after`` is where to go on, and skips no line;
    ``x-has-more`` says whether more are there already.
    """
    services, identity, identifier = await _addressed(request)
    seen = await _seen(services, identity, identifier)
    limit = limit_of(request.query_params, most=MAX_LINES, default=DEFAULT_LINES)
    cursor = _cursor(request.query_params.get("after"))
    found = await finished_lines(
        services.database, identifier, ended=seen.ended, after=cursor, limit=limit
    )
    if found:
        cursor = Cursor(found[-1].completed_at, found[-1].id)
    body = b"".join(
        ended_line(line.id, line.custom_id, line.outcome, line.status_code, line.body)
        for line in found
    )
    headers = {
        "x-next-after": base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode(),
        "x-has-more": "true" if len(found) == limit or len(body) >= PAGE_BYTES else "false",
    }
    return Response(body, media_type="application/jsonl", headers=headers)


async def retry(request: Request) -> Response:
    """``POST /v1/batches/{id}/retry``: a new batch of the lines that did not succeed."""
    services, identity, identifier = await _addressed(request)
    return await started(services, identity, await retry_of(services, identity, identifier))


async def retry_of(services: Services, identity: Identity, identifier: UUID) -> UUID:
    """A new batch of the lines that did not succeed; raises Conflict where it goes on."""
    seen = await _seen(services, identity, identifier)
    if not seen.ended:
        status = seen.status.name.lower()
        raise Conflict(f"Cannot retry a batch with status '{status}'.", code="invalid_state")
    return await create_batch(services.database, await retried(services, identity, identifier))


async def _created(services: Services, request: Request, new: NewBatch) -> UUID:
    """The id of a new batch, or of the one that this creation repeats."""
    key = key_of(request, PATH)
    if key is not None:
        identifier = new_batch_id()
        return await stored_once(
            services,
            partial(store_batch, new, identifier),
            identifier,
            team_id=new.team_id,
            key=key,
            fingerprint=new.fingerprint,
        )
    if request.headers.get("x-stainless-retry-count", "0") != "0":
        found = await undelivered_batch(
            services.database, team_id=new.team_id, fingerprint=new.fingerprint
        )
        if found is not None:
            return found
    return await create_batch(services.database, new)


async def _dry_run(services: Services, request: Request, new: NewBatch) -> dict[str, Any]:
    identity = await services.keys.identify(request)
    file = None
    if new.input_file is not None:
        file = await find_file(services.database, new.input_file, team_id=new.team_id)
    identifier = await create_batch(services.database, new)
    try:
        await dispatch_jobs(services.doorbell, services.broker, [identifier])
        seen = await _seen(services, identity, identifier)
        seen = await _until(services, identity, seen, DRY_RUN_SECONDS, lambda now: now.ended)
    finally:
        await forget_dry_run(services.database, identifier)
    if not seen.ended:
        raise Unavailable("No process is free to read the file.", retry_after_seconds=60)
    return dry_run_object(seen, file_bytes=None if file is None else file.bytes)


async def _until(
    services: Services,
    identity: Identity,
    seen: BatchView,
    seconds: float,
    enough: Callable[[BatchView], bool],
) -> BatchView:
    """The batch when it is as wanted, or has ended, or the time is up."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    with services.batch_watch.watching(seen.id) as event, _draining(services, event) as draining:
        while not (enough(seen) or seen.ended or draining.is_set()):
            left = min(give_up - loop.time(), services.settings.poll_seconds)
            if left <= 0:
                break
            await _wait(event, left)
            seen = await _seen(services, identity, seen.id)
    return seen


async def _changes(services: Services, identity: Identity, seen: BatchView) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    progress = Progress()
    told: object = None
    told_at = 0.0
    with services.batch_watch.watching(seen.id) as event, _draining(services, event) as draining:
        while True:
            if _state(seen) != told:
                told, told_at = _state(seen), loop.time()
                text = msgspec.json.encode(batch_object(seen) | {"progress": progress.of(seen)})
                yield b"event: batch.%b\ndata: %b\n\n" % (seen.status.name.lower().encode(), text)
                if seen.ended:
                    return
                await asyncio.sleep(EVENT_SECONDS)
            elif loop.time() - told_at >= services.settings.stream_heartbeat_seconds:
                told_at = loop.time()
                yield b": waiting\n\n"
            else:
                await _wait(event, services.settings.poll_seconds)
            if draining.is_set():
                return
            seen = await _seen(services, identity, seen.id)


@contextmanager
def _draining(services: Services, wake: asyncio.Event) -> Any:
    """An event that is set when this process must end; then ``wake`` is, too."""
    draining = asyncio.Event()

    def drain() -> None:
        draining.set()
        wake.set()

    forget = services.on_drain(drain)
    try:
        yield draining
    finally:
        forget()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


def _state(seen: BatchView) -> object:
    """What makes one view of a batch another."""
    return seen.status, seen.total, seen.completed, seen.failed, seen.cancelled, seen.expired


async def _addressed(request: Request) -> tuple[Services, Identity, UUID]:
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    return services, identity, parse_public_id(BATCH_PREFIX, request.path_params["id"])


async def _seen(services: Services, identity: Identity, identifier: UUID) -> BatchView:
    seen = await find_batch(services.database, identifier, team_id=identity.team_id)
    if seen is None:
        raise NotFound(f"No batch found with id '{BATCH_PREFIX}{identifier.hex}'.", param="id")
    return seen


def _cursor(text: str | None) -> Cursor:
    if not text:
        return Cursor()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Cursor)
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidRequest(
            "Invalid value for 'after': expected what 'x-next-after' said.", param="after"
        ) from None


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"Invalid value for '{name}': expected true or false.", param=name)
    return text == "true"
