"""The double as one ASGI application, served on the loopback."""

import asyncio
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tests.double.control import Control
from tests.double.front import Front
from tests.double.refusals import Refused, refused
from tests.double.world import World

HOST = "127.0.0.1"
KEEP_ALIVE_SECONDS = 60
BACKLOG = 2048


def application(world: World) -> ASGIApp:
    routes = [
        *world.live.routes(),
        *world.files.routes(),
        *world.batches.routes(),
        *world.responses.routes(),
        *Control(world).routes(),
    ]
    handlers = {Refused: refused, 404: _unknown_url, 405: _unknown_url}
    return Front(world, Starlette(routes=routes, exception_handlers=handlers))


async def serve(name: str, port: int, *, leash: bool) -> None:
    """Serve until the process is ended; prints the URL once connections are taken.

    With a ``leash``, also until stdin is closed, that is until the process that started it ends.
    """
    listener = socket.create_server((HOST, port), backlog=BACKLOG)
    config = uvicorn.Config(
        application(World(name)),
        log_level="critical",
        lifespan="off",
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    print(f"http://{HOST}:{listener.getsockname()[1]}/v1", flush=True)
    # `_serve` is `serve` without the signal handlers: SIGTERM ends it at once, with what hangs.
    serving = asyncio.create_task(uvicorn.Server(config)._serve([listener]))
    if leash:
        await asyncio.to_thread(sys.stdin.read)
        return
    await serving


async def _unknown_url(request: Request, _: Exception) -> Response:
    text = f"Invalid URL ({request.method} {request.url.path})"
    return Refused(text, status=404).response()
