"""Serves the API over HTTP until told to end."""

import asyncio
import socket
from types import FrameType

import uvicorn
import uvloop

from api.app import make_app
from api.connection import Connection
from api.services import Services
from api.traces import traced
from carpool import collector, tracing
from carpool import log as logs
from carpool.settings import Settings

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that none is closed under a request."""
BACKLOG = 4096
SHUTDOWN_MARGIN_SECONDS = 5


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then let waiting clients go in order. Blocks."""
    logs.configure(as_json=settings.log_json)
    tracing.start("api")
    collector.relax()
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    services = Services(settings)
    config = uvicorn.Config(
        traced(make_app(services)),
        host=settings.host,
        port=settings.port,
        loop="none",
        http=Connection,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds) + SHUTDOWN_MARGIN_SECONDS,
        backlog=BACKLOG,
    )
    fd = settings.listen_fd
    sockets = None if fd is None else [socket.socket(fileno=fd)]
    await _Server(config, services, settings.drain_seconds).serve(sockets)


class _Server(uvicorn.Server):
    """Lets connections that wait go ``drain_seconds`` after the signal."""

    def __init__(self, config: uvicorn.Config, services: Services, drain_seconds: float) -> None:
        super().__init__(config)
        self._services = services
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Afterwards uvicorn raises the signal once more, and nothing runs behind it.
        await super().shutdown(sockets)
        await asyncio.to_thread(tracing.stop)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._services.watch.end)
        self._loop.call_soon_threadsafe(
            self._loop.call_later, self._drain_seconds, self._services.drain
        )
