"""What a worker or jobs process shows of itself over HTTP: its life, its readiness, its figures."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from carpool.background import Background
from carpool.doorbell import Doorbell
from carpool.errors import ConfigurationError
from carpool.metrics import DEGRADED
from carpool.settings import Settings

Ready = Callable[[], Awaitable[bool]]
BACKLOG = 64
log = structlog.get_logger()


@asynccontextmanager
async def open_door(settings: Settings, doorbell: Doorbell, ready: Ready) -> AsyncIterator[None]:
    """Serve `/metrics`, `/healthz` and `/readyz` for the length of the context.

    Nothing is served where no port is set. Raises ConfigurationError where it cannot be had.
    """
    if settings.metrics_port is None:
        yield
        return
    with _listening(settings.metrics_host, settings.metrics_port) as listener:
        DEGRADED.set_function(lambda: not doorbell.healthy)
        background = Background()
        background.start(_serve(listener, ready))
        host, port = listener.getsockname()[:2]
        log.info("metrics_served", host=host, port=port)
        try:
            yield
        finally:
            await background.close()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"metrics_port: cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    with listener:
        yield listener


async def _serve(listener: socket.socket, ready: Ready) -> None:
    # Loaded here: a process that shows nothing needs no server.
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        if await ready():
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable"}, 503)

    async def show_metrics(request: Request) -> Response:
        text = await run_in_threadpool(generate_latest)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are the process's own affair."""
            yield

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
        ]
    )
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        lifespan="off",
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
    )
    await Server(config).serve([listener])
