"""Answers on their way to the client."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from carpool.errors import APIError
from carpool.ids import new_id, public_id

REQUEST_PREFIX = "req_"


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


def error_response(error: APIError, request_id: str | None = None) -> JSON:
    """An error in OpenAI's shape, with what the SDK reads of its headers."""
    headers = {"x-request-id": request_id or public_id(REQUEST_PREFIX, new_id())}
    if error.retry is not None:
        headers["x-should-retry"] = "true" if error.retry else "false"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    if error.status == 413:
        # The rest of the body is not read, so the connection is of no more use.
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSON(error.body(), error.status, headers)


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
