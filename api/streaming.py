"""A streamed answer: server-sent events, with honest status codes and an honest end."""

import asyncio

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.patience import Patience
from api.responses import JSON, REQUEST_PREFIX, error_response, source_headers, watch
from api.services import Services, Ticket
from api.sinks import StreamSink
from carpool import tracing
from carpool.errors import CarpoolError, InvalidRequest, Unavailable
from carpool.ids import public_id
from carpool.states import Outcome
from db.database import DatabaseAway
from db.end import CANCELLED, INTERRUPTED, Ending, end_requests
from db.results import result_of
from db.sweeper import tell_ended

HEARTBEAT = b": queued\n\n"
DONE = b"data: [DONE]\n\n"
RECOVERY_SECONDS = 0.5
log = structlog.get_logger()


class ClientStalled(CarpoolError):
    """The client is there but takes nothing of its stream (LESSONS 2)."""


class StreamResponse(Response):
    """Holds status and headers until the first chunk, or the hold has passed.

    So an engine's 400 is a 400. Then chunks as they come, comments while none come, and at the end
    ``[DONE]``, or an event with the error: never silence. ``patience_seconds`` is how long the
    client reads nothing before it gives up.
    """

    def __init__(
        self, services: Services, ticket: Ticket, sink: StreamSink, *, patience_seconds: float
    ) -> None:
        settings = services.settings
        self._hold = min(settings.stream_hold_seconds, patience_seconds)
        self._heartbeat = min(settings.stream_heartbeat_seconds, patience_seconds)
        self._services = services
        self._ticket = ticket
        self._sink = sink
        self._started = False
        self._let_go = False
        self._refused = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, sink = self._services, self._sink
        disconnect = watch(receive, sink.event.set)
        no_drain = services.on_drain(lambda: self._drain(sink))
        ended = False
        try:
            ended = await self._relay(sink, disconnect, scope, receive, send)
        except ClientStalled:
            log.warning("client_stalled", request=self._request_id)
        finally:
            no_drain()
            await self._leave(sink, disconnect, ended=ended)

    async def _leave(
        self, sink: StreamSink, disconnect: asyncio.Task[None], *, ended: bool
    ) -> None:
        """Note how the connection ended, an error of ours included."""
        services, ticket = self._services, self._ticket
        alone = services.waiting.remove(sink)
        disconnect.cancel()
        if self._refused:
            return
        if ended:
            services.delivered(ticket)
        elif sink.taken and alone:
            # A client does not come back for a stream that it has begun to read.
            await self._end(CANCELLED)
        else:
            services.disconnected(ticket, alone=alone)

    async def _relay(
        self,
        sink: StreamSink,
        disconnect: asyncio.Task[None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> bool:
        """Write until the end; whether the client has got it (an error told is an end too)."""
        pause = self._hold
        while True:
            try:
                async with asyncio.timeout(pause):
                    await sink.event.wait()
            except TimeoutError:
                await self._write(send, HEARTBEAT)
                pause = self._heartbeat
                continue
            sink.event.clear()
            if disconnect.done():
                return False
            if sink.lacks_chunks and not await self._recover(sink):
                continue
            sink.catch_up()
            pause = self._heartbeat
            text = _frames(sink)
            if sink.interrupted:
                tracing.current().fail(INTERRUPTED.code)
                await self._end(INTERRUPTED)
                await self._write(send, text + _event(INTERRUPTED.body()), last=True)
                return True
            if sink.end is not None:
                return await self._finish(sink, text, scope, receive, send)
            if self._let_go:
                return await self._release(text, scope, receive, send)
            if text:
                await self._write(send, text)

    async def _finish(
        self, sink: StreamSink, text: bytes, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        end = sink.end
        assert end is not None
        if end.outcome == Outcome.COMPLETED:
            await self._write(send, text + DONE, last=True)
            return True
        body = end.body
        if body is None:
            stored = await result_of(self._services.database, sink.request)
            assert stored is not None
            body = stored.body
        if self._started or text:
            tracing.current().fail(str(end.status_code))
            await self._write(send, text + _event(body), last=True)
        else:
            bad_input = end.status_code == InvalidRequest.status
            if bad_input and self._services.waiting.remove(sink):
                self._refused = True
                await self._services.refuse(self._ticket)
            headers = {"x-request-id": self._request_id, "x-should-retry": "false"}
            headers |= source_headers(sink.source)
            await JSON(body, end.status_code, headers)(scope, receive, send)
        return True

    async def _release(self, text: bytes, scope: Scope, receive: Receive, send: Send) -> bool:
        """End the connection because this process ends."""
        error = Unavailable("The server is restarting; try again.", retry_after_seconds=1)
        if self._started or text:
            await self._write(send, text + _event(error.body()), last=True)
            await self._end(INTERRUPTED)
            return True
        await error_response(error, self._request_id)(scope, receive, send)
        return False

    async def _recover(self, sink: StreamSink) -> bool:
        """Read the stored result in place of chunks that were missed."""
        try:
            stored = await result_of(self._services.database, sink.request)
        except DatabaseAway:
            asyncio.get_running_loop().call_later(RECOVERY_SECONDS, sink.event.set)
            return False
        if stored is not None:
            sink.stored(stored)
        return True

    async def _end(self, ending: Ending) -> None:
        """End the request itself, for no one will read it."""
        try:
            ended = await end_requests(self._services.database, [self._ticket.request], ending)
        except DatabaseAway:
            self._services.disconnected(self._ticket, alone=True)
            return
        tell_ended(self._services.doorbell, ended)

    def _drain(self, sink: StreamSink) -> None:
        self._let_go = True
        sink.event.set()

    @property
    def _request_id(self) -> str:
        return public_id(REQUEST_PREFIX, self._ticket.request)

    async def _write(self, send: Send, text: bytes, *, last: bool = False) -> None:
        if not self._started:
            self._started = True
            headers = source_headers(self._sink.source) | self._ticket.cache_headers
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-cache"),
                        (b"x-accel-buffering", b"no"),
                        (b"x-request-id", self._request_id.encode()),
                        *((name.encode(), value.encode()) for name, value in headers.items()),
                    ],
                }
            )
        try:
            async with Patience(self._services.settings.stall_seconds):
                await send({"type": "http.response.body", "body": text, "more_body": not last})
        except TimeoutError:
            raise ClientStalled from None


def _frames(sink: StreamSink) -> bytes:
    if not sink.ready:
        return b""
    text = b"".join([b"data: %b\n\n" % chunk for chunk in sink.ready])
    sink.ready.clear()
    return text


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body
