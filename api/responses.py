"""Answers on their way to the client."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api import metrics
from carpool.errors import APIError
from carpool.ids import new_id, public_id
from carpool.notices import Source

REQUEST_PREFIX = "req_"
_PRINTED = "/:@ ()+,;=!$&'*[]"
LINGER_SECONDS = 30.0
LINGER_STALL_SECONDS = 1.0
"""How long what a client still sends is dropped: in all, and while nothing comes."""


class JSON(Response):
    """A body that is JSON already, or is made so; calls back after its last byte was written."""

    media_type = "application/json"

    def __init__(
        self,
        content: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        written: Callable[[], None] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        super().__init__(body, status, headers)
        self._written = written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        if self._written is not None:
            self._written()


class LastJSON(JSON):
    """An answer before the request's body was read whole: the connection ends with it.

    What the client still sends is read and dropped for a while. Were the connection closed under
    it, its machine would drop the answer, and the client see a broken connection and try again.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["connection"] = "close"

        async def lingering(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({**message, "more_body": True})
            await _drop_body(receive)
            await send({"type": "http.response.body", "body": b""})

        await super().__call__(scope, receive, lingering)


async def _drop_body(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while True:
                async with asyncio.timeout(LINGER_STALL_SECONDS):
                    if not (await receive()).get("more_body", False):
                        return


def source_headers(source: Source | None) -> dict[str, str]:
    """Which backend answered, and under which name it knows the model; percent-encoded."""
    if source is None:
        return {}
    return {
        "x-carpool-backend": quote(source.backend, safe=_PRINTED),
        "x-carpool-upstream": quote(source.upstream, safe=_PRINTED),
    }


def listing(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> JSON:
    """A page of objects, as the SDK walks them."""
    return JSON(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": has_more,
        }
    )


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Server-sent events, that no proxy shall keep back."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def error_response(error: APIError, request_id: str | None = None, *, early: bool = False) -> JSON:
    """An error in OpenAI's shape, with what the SDK reads of its headers.

    ``early``: the request's body was not read whole.
    """
    metrics.refused(error.code)
    headers = {"x-request-id": request_id or public_id(REQUEST_PREFIX, new_id())}
    if error.retry is not None:
        headers["x-should-retry"] = "true" if error.retry else "false"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    kind = LastJSON if early else JSON
    return kind(error.body(), error.status, headers)


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def watch(receive: Receive, gone: Callable[[], None]) -> asyncio.Task[None]:
    """Call back when the client hangs up; cancel the task when that is of no more interest."""
    task = asyncio.create_task(until_disconnect(receive))

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            gone()

    task.add_done_callback(ended)
    return task
