"""`carpool up`: everything on one machine, supervised."""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from carpool.settings import Settings
from carpool.store import open_store
from cli.connection import Connection, read_connection, write_connection
from cli.data_lock import locked
from cli.ending import Ending
from cli.first_keys import admin_key, team_key
from cli.guard import guarded
from cli.opened_database import database_errors, opened_database
from cli.port import base_url, listening
from cli.postgres import EmbeddedPostgres
from cli.probe import first_model
from cli.process_record import RecordFile, end_recorded, read_record
from cli.services import (
    STOP_MARGIN_SECONDS,
    api_service,
    jobs_service,
    log_file,
    postgres_service,
    valkey_service,
    worker_services,
)
from cli.supervisor import Supervisor
from cli.valkey import EmbeddedValkey
from cli.welcome import welcome
from db.migrate import migrate

RECORD_FILE = "processes.json"
LEFTOVER_GRACE_SECONDS = 3.0


def up(settings: Settings, *, workers: int) -> None:
    """Run until SIGINT or SIGTERM. Raises ConfigurationError where it cannot start."""
    began = time.monotonic()
    open_store(settings)  # a wrong URL is told once, not by each service
    with locked(settings.directory):
        record = settings.directory / RECORD_FILE
        _end_leftovers(record)
        with listening(settings.host, settings.port) as door:
            settings = settings.model_copy(
                update={"port": door.getsockname()[1], "listen_fd": door.fileno()}
            )
            file = RecordFile(record)
            file.write()
            with guarded(file, grace_seconds=settings.drain_seconds + STOP_MARGIN_SECONDS):
                asyncio.run(_run(settings, workers, file, began))


async def _run(settings: Settings, workers: int, record: RecordFile, began: float) -> None:
    supervisor = Supervisor(record, _say)
    ending = Ending(_say, supervisor.hurry)
    try:
        if await ending.unless_asked(_start(settings, workers, supervisor, began)):
            await ending.wait()
    finally:
        await supervisor.stop()


async def _start(settings: Settings, workers: int, supervisor: Supervisor, began: float) -> None:
    settings = await _with_servers(settings, supervisor)
    assert settings.database_url is not None
    with database_errors():
        await asyncio.to_thread(migrate, settings.database_url.get_secret_value())
    services = [
        api_service(settings),
        jobs_service(settings),
        *worker_services(settings, each=workers),
    ]
    connection = await _connection(settings)
    await asyncio.gather(*(supervisor.start(service) for service in services))
    write_connection(settings.directory, connection)
    model = await _model(settings, connection)
    welcome(Console(), settings, connection, model, time.monotonic() - began)


async def _with_servers(settings: Settings, supervisor: Supervisor) -> Settings:
    """The settings with the URLs of both servers, those that are not given started here."""
    urls, services = {}, []
    if settings.database_url is None:
        postgres = EmbeddedPostgres(
            settings.directory / "postgres", log=log_file(settings, "postgres")
        )
        urls["database_url"] = SecretStr(postgres.url)
        services.append(postgres_service(postgres))
    if settings.redis_url is None:
        valkey = EmbeddedValkey(settings.directory / "valkey", log=log_file(settings, "valkey"))
        urls["redis_url"] = SecretStr(valkey.url)
        services.append(valkey_service(valkey))
    await asyncio.gather(*(supervisor.start(service) for service in services))
    return settings.model_copy(update=urls)


async def _connection(settings: Settings) -> Connection:
    """What `connection.json` is to say, with the keys of an earlier start where they hold."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    stored = read_connection(settings.directory)
    async with opened_database(settings) as database:
        return Connection(
            base_url=base_url(settings.host, settings.port),
            api_key=await team_key(database, stored),
            admin_key=await admin_key(database, stored),
            database_url=settings.database_url.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
        )


async def _model(settings: Settings, connection: Connection) -> str:
    """The name of a model that exists, for the examples."""
    for model in settings.models:
        return model
    listed = await asyncio.to_thread(first_model, connection.base_url, connection.api_key)
    return listed or "MODEL"


def _end_leftovers(path: Path) -> None:
    record = read_record(path)
    if record is None:
        return
    ended = end_recorded(record.processes, grace_seconds=LEFTOVER_GRACE_SECONDS)
    if ended:
        _say(f"ended what an earlier start left: {', '.join(ended)}")


def _say(line: str) -> None:
    with suppress(OSError):  # a terminal that is gone
        print(f"carpool: {line}", file=sys.stderr, flush=True)
