"""The endpoints that run a model: answered in the connection, streamed, or answered later."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from api.admission import admit
from api.bodies import read_body
from api.intake import read
from api.objects import request_object
from api.responses import JSON, REQUEST_PREFIX, error_response, source_headers, watch
from api.services import Services, Ticket
from api.sinks import AnswerSink, StreamSink
from api.streaming import StreamResponse
from carpool.errors import InvalidRequest, Unavailable
from carpool.ids import public_id
from carpool.states import Endpoint
from db.database import DatabaseAway
from db.keys import Identity
from db.results import result_of
from db.view import view

READ_TIMEOUT_MARGIN_SECONDS = 5.0
READ_TIMEOUT_MARGIN_SHARE = 0.1
RETRY_AFTER_SECONDS = 1
NOTE_SECONDS = 0.5
NOTHING = Response(status_code=499)
"""For a client that is gone: nobody reads it."""


Who = Callable[[Request], Awaitable[Identity]]


async def _by_key(request: Request) -> Identity:
    services: Services = request.app.state.services
    return await services.keys.identify(request)


def endpoint(path: Endpoint, who: Who = _by_key) -> Callable[[Request], Awaitable[Response]]:
    """The handler of one inference endpoint; ``who`` tells whose a request is."""

    async def handle(request: Request) -> Response:
        services: Services = request.app.state.services
        identity = await who(request)
        raw = await read_body(
            request,
            limit_bytes=services.settings.max_body_bytes,
            stall_seconds=services.settings.stall_seconds,
        )
        intake = read(path, raw, team_id=identity.team_id)
        if _prefers_async(request):
            ticket = await admit(services, request, identity, intake, None)
            return await _accepted(services, ticket, identity.team_id)
        if intake.stream:
            stream = StreamSink()
            ticket = await admit(services, request, identity, intake, stream)
            return StreamResponse(services, ticket, stream, patience_seconds=_patience(request))
        answer = AnswerSink()
        ticket = await admit(services, request, identity, intake, answer)
        return await _answered(services, request, ticket, answer)

    return handle


async def _answered(
    services: Services, request: Request, ticket: Ticket, sink: AnswerSink
) -> Response:
    began = time.monotonic()
    limit = asyncio.get_running_loop().call_later(_patience(request), sink.give_up)
    disconnect = watch(request.receive, sink.give_up)
    draining = services.on_drain(sink.give_up)
    try:
        end = await sink.future
    finally:
        limit.cancel()
        draining()
        alone = services.waiting.remove(sink)
    if end is None:
        noted = services.disconnected(ticket, alone=alone)
        if disconnect.done():
            return NOTHING
        disconnect.cancel()
        return await _still_waiting(ticket, noted)
    body = end.body
    if body is None:
        try:
            stored = await result_of(services.database, ticket.request)
        except DatabaseAway:
            services.disconnected(ticket, alone=alone)
            raise
        assert stored is not None
        body = stored.body
    headers = {
        "x-request-id": public_id(REQUEST_PREFIX, ticket.request),
        "openai-processing-ms": str(int((time.monotonic() - began) * 1000)),
        **source_headers(end.source),
        **ticket.cache_headers,
    }
    refused = alone and end.status_code == InvalidRequest.status
    if refused:
        await services.refuse(ticket)
    if end.status_code >= 400:
        # Carpool itself has tried as often as makes sense.
        headers["x-should-retry"] = "false"

    def written() -> None:
        if not disconnect.done():
            disconnect.cancel()
            if not refused:
                services.delivered(ticket)
        elif not refused:
            services.disconnected(ticket, alone=alone)

    return JSON(body, end.status_code, headers, written)


async def _still_waiting(ticket: Ticket, noted: asyncio.Future[None]) -> Response:
    """Send a client back before it gives up, once the end of its connection is noted."""
    with suppress(TimeoutError, DatabaseAway, Unavailable):
        # A retry that comes before this is stored would be taken for new work.
        async with asyncio.timeout(NOTE_SECONDS):
            await noted
    return error_response(
        Unavailable(
            "The answer is not ready yet; the same request, sent again, waits on for it.",
            code="still_waiting",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        ),
        public_id(REQUEST_PREFIX, ticket.request),
    )


async def _accepted(services: Services, ticket: Ticket, team_id: int) -> Response:
    seen = await view(services.database, ticket.request, team_id=team_id)
    if seen is None:
        raise Unavailable("What this request repeats was just refused; try again.")
    headers = {
        "x-request-id": public_id(REQUEST_PREFIX, ticket.request),
        "preference-applied": "respond-async",
    }
    return JSON(request_object(seen), 202, headers, lambda: services.delivered(ticket))


def _prefers_async(request: Request) -> bool:
    preferences = request.headers.get("prefer", "").lower().split(",")
    return any(preference.split(";")[0].strip() == "respond-async" for preference in preferences)


def _patience(request: Request) -> float:
    """How long the connection may wait, in seconds: a little less than its client does."""
    try:
        limit = float(request.headers["x-stainless-read-timeout"])
    except (KeyError, ValueError):
        limit = 0.0
    if not 0 < limit < math.inf:
        return math.inf
    margin = min(READ_TIMEOUT_MARGIN_SECONDS, limit * READ_TIMEOUT_MARGIN_SHARE)
    return limit - margin
