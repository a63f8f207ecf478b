"""The services of `carpool up`: what each runs, with which environment and in which seat."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from carpool.errors import ConfigurationError
from carpool.settings import Settings
from cli.port import base_url
from cli.postgres import STOP_SECONDS as POSTGRES_STOP_SECONDS
from cli.postgres import EmbeddedPostgres
from cli.probe import get
from cli.process_group import Command, ProcessGroup
from cli.supervisor import Service, ready_at_once
from cli.valkey import STOP_SECONDS as VALKEY_STOP_SECONDS
from cli.valkey import EmbeddedValkey

READY_SECONDS = 60.0
STOP_MARGIN_SECONDS = 5.0
_STEP_SECONDS = 0.05
_LOG_BYTES = 10_000_000
_CARPOOL = (sys.executable, "-P", "-m", "cli.main")


def postgres_service(server: EmbeddedPostgres) -> Service:
    """The embedded Postgres."""
    return Service(
        command=server.command,
        prepare=server.prepare,
        wait_ready=server.wait_ready,
        foundation=True,
        stop_seconds=POSTGRES_STOP_SECONDS,
    )


def valkey_service(server: EmbeddedValkey) -> Service:
    """The embedded Valkey."""
    return Service(
        command=server.command,
        prepare=server.prepare,
        wait_ready=server.wait_ready,
        foundation=True,
        stop_seconds=VALKEY_STOP_SECONDS,
    )


def api_service(settings: Settings) -> Service:
    """The API; ready when `/readyz` says so."""
    readyz = base_url(settings.host, settings.port).removesuffix("/v1") + "/readyz"

    async def wait_ready(group: ProcessGroup) -> None:
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while (answer := await asyncio.to_thread(get, readyz)) is None or answer[0] != 200:
            if not group.running:
                raise ConfigurationError("the API ended while it started; it says why above")
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"the API is not ready after {READY_SECONDS:g} s")
            await asyncio.sleep(_STEP_SECONDS)

    door = () if settings.listen_fd is None else (settings.listen_fd,)
    return _carpool("api", ("api",), settings, wait_ready=wait_ready, inherits=door)


def worker_services(settings: Settings, *, each: int) -> Iterator[Service]:
    """``each`` workers for each backend."""
    place = 0
    for backend in settings.backends:
        for number in range(1, each + 1):
            place += 1
            arguments = ("worker", "--backend", backend)
            yield _carpool(f"{backend}-{number}", arguments, settings, place=place)


def jobs_service(settings: Settings) -> Service:
    """The jobs: batches and cleaning."""
    return _carpool("jobs", ("jobs",), settings)


def log_file(settings: Settings, name: str) -> Path:
    """The log of an embedded server; one that has grown large is put aside first."""
    path = settings.directory / "logs" / f"{name}.log"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.old"))
    return path


def _carpool(
    role: str,
    arguments: tuple[str, ...],
    settings: Settings,
    *,
    wait_ready: Callable[[ProcessGroup], Awaitable[None]] = ready_at_once,
    inherits: tuple[int, ...] = (),
    place: int = 0,
) -> Service:
    """A command of our own; its seat stays its own over restarts.

    Of those that serve figures on a port of their own, each has another ``place``.
    """
    return Service(
        command=Command(
            name=role if role in ("api", "jobs") else f"worker {role}",
            argv=(*_CARPOOL, *arguments),
            environment=_environment(settings, role, place),
            inherits=inherits,
        ),
        wait_ready=wait_ready,
        stop_seconds=settings.drain_seconds + STOP_MARGIN_SECONDS,
    )


def _environment(settings: Settings, role: str, place: int) -> dict[str, str]:
    """Our own environment, with what was decided here."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = dict(os.environ) | {
        "CARPOOL_DATA_DIR": str(settings.directory),
        "CARPOOL_DATABASE_URL": settings.database_url.get_secret_value(),
        "CARPOOL_REDIS_URL": settings.redis_url.get_secret_value(),
        "CARPOOL_HOST": settings.host,
        "CARPOOL_PORT": str(settings.port),
        "CARPOOL_SEAT": f"{socket.gethostname()}:{settings.directory}:{role}",
    }
    if settings.metrics_port:  # with 0 each takes a free one
        environment["CARPOOL_METRICS_PORT"] = str(settings.metrics_port + place)
    if settings.listen_fd is not None:
        environment["CARPOOL_LISTEN_FD"] = str(settings.listen_fd)
    if settings.config is not None:
        environment["CARPOOL_CONFIG"] = str(settings.config.absolute())
    return environment
