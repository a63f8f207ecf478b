"""`/v1/requests`: what became of a request, awaited, watched, cancelled or listed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.objects import request_object, waits_object
from api.query import limit_of, wait_of
from api.responses import JSON, REQUEST_PREFIX, event_stream, listing
from api.services import Services
from api.sinks import AnswerSink
from carpool.errors import InvalidRequest, NotFound
from carpool.ids import parse_public_id
from carpool.states import RequestStatus
from db.delivery import listen_in
from db.end import CANCELLED, end_requests
from db.keys import Identity
from db.reasons import reason_of
from db.sweeper import tell_ended
from db.view import MAX_PAGE, RequestView, page, view

ENDED = (
    RequestStatus.COMPLETED,
    RequestStatus.FAILED,
    RequestStatus.CANCELLED,
    RequestStatus.EXPIRED,
)


async def retrieve(request: Request) -> Response:
    """``GET /v1/requests/{id}?wait=SECONDS``: at once, or when it has ended, or the time is up.

    One that waits has ``waits``: why, its place, and until when.
    """
    services, identity, identifier = await _addressed(request)
    wait = wait_of(request.query_params)
    seen = await _seen(services, identity, identifier)
    if wait and seen.status not in ENDED:
        sink = AnswerSink()
        services.waiting.add(sink, identifier)
        no_drain = services.on_drain(sink.give_up)
        handle = asyncio.get_running_loop().call_later(wait, sink.give_up)
        try:
            await listen_in(services.database, identifier, services.incarnation)
            seen = await _seen(services, identity, identifier)
            if seen.status not in ENDED:
                await sink.future
                seen = await _seen(services, identity, identifier)
        finally:
            handle.cancel()
            no_drain()
            services.waiting.remove(sink)
    return JSON(request_object(seen) | await _waits(services, seen))


async def events(request: Request) -> Response:
    """``GET /v1/requests/{id}/events``: the request object at each change of its status, by SSE."""
    services, identity, identifier = await _addressed(request)
    seen = await _seen(services, identity, identifier)
    return event_stream(_changes(services, identity, seen))


async def cancel(request: Request) -> Response:
    """``DELETE /v1/requests/{id}``: the cancelled object; one that has ended is returned as is."""
    services, identity, identifier = await _addressed(request)
    ended = await end_requests(services.database, [identifier], CANCELLED, team_id=identity.team_id)
    tell_ended(services.doorbell, ended)
    return JSON(request_object(await _seen(services, identity, identifier)))


async def list_requests(request: Request) -> Response:
    """``GET /v1/requests?status=&model=&after=&limit=``: newest first, paged by id."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    query = request.query_params
    limit = limit_of(query, most=MAX_PAGE)
    after = query.get("after")
    found = await page(
        services.database,
        team_id=identity.team_id,
        status=_status(query.get("status")),
        model=_model(query.get("model")),
        after=None if after is None else parse_public_id(REQUEST_PREFIX, after),
        limit=limit + 1,
    )
    data = [request_object(seen) for seen in found[:limit]]
    return listing(data, has_more=len(found) > limit)


async def _changes(
    services: Services, identity: Identity, seen: RequestView
) -> AsyncIterator[bytes]:
    sink = AnswerSink()
    services.waiting.add(sink, seen.id)
    no_drain = services.on_drain(sink.give_up)
    told: tuple[Any, ...] | None = None
    silent_seconds = 0.0
    try:
        await listen_in(services.database, seen.id, services.incarnation)
        while True:
            change = (seen.status, seen.attempts)
            if change != told:
                told = change
                silent_seconds = 0.0
                text = msgspec.json.encode(request_object(seen))
                yield b"event: request.%b\ndata: %b\n\n" % (seen.status.encode(), text)
            if seen.status in ENDED or (sink.future.done() and sink.future.result() is None):
                return
            await asyncio.wait({sink.future}, timeout=services.settings.poll_seconds)
            silent_seconds += services.settings.poll_seconds
            if silent_seconds >= services.settings.stream_heartbeat_seconds:
                silent_seconds = 0.0
                yield b": waiting\n\n"
            seen = await _seen(services, identity, seen.id)
    finally:
        no_drain()
        services.waiting.remove(sink)


async def _addressed(request: Request) -> tuple[Services, Identity, UUID]:
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    return services, identity, parse_public_id(REQUEST_PREFIX, request.path_params["id"])


async def _seen(services: Services, identity: Identity, identifier: UUID) -> RequestView:
    seen = await view(services.database, identifier, team_id=identity.team_id)
    if seen is None:
        raise NotFound(f"No request with the id '{REQUEST_PREFIX}{identifier.hex}' exists.")
    return seen


async def _waits(services: Services, seen: RequestView) -> dict[str, Any]:
    """What is added to the object of a request that waits, here or at a provider."""
    at_provider = seen.status is RequestStatus.IN_PROGRESS and seen.reason is not None
    if seen.status is not RequestStatus.QUEUED and not at_provider:
        return {}
    situation = await services.situation.get(None)
    waits = await reason_of(services.database, seen.id, situation=situation)
    return {} if waits is None else {"waits": waits_object(waits)}


def _model(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise InvalidRequest("Invalid value for 'model': it holds a NUL.", param="model")
    return text


def _status(text: str | None) -> RequestStatus | None:
    if text is None:
        return None
    try:
        return RequestStatus(text)
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for 'status': expected one of {', '.join(RequestStatus)}.",
            param="status",
        ) from None
