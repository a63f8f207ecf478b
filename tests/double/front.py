"""What every request to `/v1/…` passes first: it is recorded, spoiled, and its key looked at."""

import asyncio
import socket
import struct
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.double.faults import Fault
from tests.double.record import Call, kept
from tests.double.refusals import Refused, error_of

if TYPE_CHECKING:
    from tests.double.world import World

_NO_LINGER = struct.pack("ii", 1, 0)
"""With it, closing a socket resets its connection."""


class Front:
    """An ASGI application round another one."""

    def __init__(self, world: "World", app: ASGIApp) -> None:
        self._world = world
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        world, headers = self._world, Headers(scope=scope)
        call = Call(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            headers=dict(headers),
            body=kept(body, headers.get("content-type", "")),
        )
        world.record.note(call)
        fault = world.faults.of_request(call.method, call.path, body)
        exchange = _Exchange(world, call, fault or Fault(path=""), body, receive, send)
        app = refusal(world.settings.keys, headers.get("authorization", "")) or self._app
        await exchange.run(scope, app)


class _Exchange:
    """One request and its answer, with what is wrong with them."""

    def __init__(
        self, world: "World", call: Call, fault: Fault, body: bytes, receive: Receive, send: Send
    ) -> None:
        self._world = world
        self._call = call
        self._fault = fault
        self._body: bytes | None = body
        self._receive_next = receive
        self._send_on = send
        self._start: Message | None = None
        self._chunks = 0
        self._bytes = 0
        self._closed = False

    async def run(self, scope: Scope, app: ASGIApp) -> None:
        fault = self._fault
        if fault.delay_seconds and not await self._outlasted(asyncio.sleep(fault.delay_seconds)):
            return
        if fault.hang and not await self._released():
            return
        if fault.reset and fault.cut_after_chunks is None and fault.cut_after_bytes is None:
            await self._close()
            return
        if fault.status is not None or fault.body is not None:
            app = _answer(fault)
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive_next()

    async def _send(self, message: Message) -> None:
        """Hold the status back until it is known that a part of the body follows it."""
        if self._closed:
            return
        if message["type"] == "http.response.start":
            self._start = message
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", f"req_{uuid.uuid4().hex}".encode()),
                (b"openai-version", b"2020-10-01"),
                (b"openai-processing-ms", b"1"),
            ]
            return
        if self._fault.hang_after_chunks == self._chunks and not await self._released():
            self._closed = True
            return
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        body, fault = message.get("body", b""), self._fault
        cut = fault.cut_after_chunks is not None and self._chunks >= fault.cut_after_chunks
        if fault.cut_after_bytes is not None:
            left = fault.cut_after_bytes - self._bytes
            if cut := len(body) > left:
                body = body[:left]
        elif cut:
            body = b""
        if body or not cut:
            await self._begin()
            more = cut or message.get("more_body", False)
            await self._send_on({"type": "http.response.body", "body": body, "more_body": more})
            self._chunks += 1
            self._bytes += len(body)
        if cut:
            await self._close()

    async def _begin(self) -> None:
        if self._start is not None:
            self._call.status = self._start["status"]
            await self._send_on(self._start)
            self._start = None

    async def _released(self) -> bool:
        return await self._outlasted(self._world.record.hold())

    async def _outlasted(self, waiting: Coroutine[Any, Any, None]) -> bool:
        """Wait; False where the client went away before the end of it."""
        gone, waited = asyncio.create_task(self._gone()), asyncio.create_task(waiting)
        await asyncio.wait({gone, waited}, return_when=asyncio.FIRST_COMPLETED)
        outlasted = waited.done()
        gone.cancel()
        waited.cancel()
        await asyncio.wait({gone, waited})
        return outlasted

    async def _gone(self) -> None:
        while (await self._receive_next())["type"] != "http.disconnect":
            pass

    async def _close(self) -> None:
        """End the connection in the middle of what it carries."""
        self._closed = True
        # ASGI has no word for it: uvicorn's `send` is a method of what holds the transport.
        transport: asyncio.Transport = getattr(self._send_on, "__self__").transport  # noqa: B009
        if self._fault.reset:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        else:
            transport.close()
        await self._gone()


def refusal(keys: list[str] | None, authorization: str) -> Response | None:
    """The 401 of a key that is not one of these, or is none."""
    scheme, _, key = authorization.partition(" ")
    if scheme == "Bearer" and key and (keys is None or key in keys):
        return None
    text = (
        f"Incorrect API key provided: {key[:3]}***. You can find your API key at your provider."
        if key
        else "You didn't provide an API key."
    )
    return Refused(text, status=401, code="invalid_api_key").response()


def _answer(fault: Fault) -> Response:
    """What was told to be answered."""
    status = 200 if fault.status is None else fault.status
    body = fault.body
    if body is None:
        body = msgspec.json.encode(error_of(status)).decode()
    kind = "text/html" if body.lstrip().startswith("<") else "application/json"
    return Response(body, status, {"content-type": kind, **fault.headers})


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None where the client went away in the middle of it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
