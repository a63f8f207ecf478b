"""`/admin/v1/overview` and `/admin/v1/events`: what waits, who serves, what is wrong; and live."""

import asyncio
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.admin import Admin, admin_of, asker
from api.admin_watch import Watch, Watcher
from api.connection import cut_off
from api.patience import Patience
from api.responses import JSON, watch
from api.services import Services
from db.overview import Seen

COMMENT_SECONDS = 15.0
COMMENT = b": watching\n\n"
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
log = structlog.get_logger()


async def overview(request: Request) -> Response:
    """``GET /admin/v1/overview``."""
    await admin_of(request)
    services: Services = request.app.state.services
    return JSON((await services.watch.seen()).overview)


async def events(request: Request) -> Response:
    """``GET /admin/v1/events``: server-sent events, for as long as the client takes them.

    ``overview`` with the overview, at once and when it has changed; ``changed`` with what of
    routes, batches and workers has; ``away`` while the database cannot be reached.
    """
    admin = await asker(request)
    services: Services = request.app.state.services
    if request.method == "HEAD":
        return Response(headers=HEADERS)
    return Events(
        services.watch,
        admin,
        await services.watch.seen(),
        stall_seconds=services.settings.stall_seconds,
    )


class Events(Response):
    """A stream that ends with its session, its key, the process, or a client that takes nothing.

    What a slow client has not taken is not kept for it: it gets the newest instead.
    """

    def __init__(self, watch: Watch, admin: Admin, seen: Seen, *, stall_seconds: float) -> None:
        self._watch = watch
        self._admin = admin
        self._seen = seen
        self._stall = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watch.watching(self._admin.by, self._seen) as watcher:
            gone = watch(receive, watcher.end)
            try:
                await self._relay(watcher, gone, send)
            except TimeoutError:
                log.info("watcher_stalled", by=str(self._admin.identity.key_id))
                cut_off(scope)
            finally:
                gone.cancel()

    async def _relay(self, watcher: Watcher, gone: asyncio.Task[None], send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
            }
        )
        while not watcher.over:
            try:
                async with asyncio.timeout(COMMENT_SECONDS):
                    await watcher.event.wait()
            except TimeoutError:
                await self._write(send, COMMENT)
                continue
            await self._write(send, watcher.take())
        if not gone.done():
            await self._write(send, b"", last=True)

    async def _write(self, send: Send, text: bytes, *, last: bool = False) -> None:
        async with Patience(self._stall):
            await send({"type": "http.response.body", "body": text, "more_body": not last})
