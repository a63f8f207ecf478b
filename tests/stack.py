"""A real Carpool for tests: `carpool up` as processes, in a directory and on a port of its own.

The simulated backend answers at once unless the environment, or a request's own
``carpool_simulate``, says otherwise (see :mod:`workers.backends.simulated`).
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil
from openai import AsyncOpenAI, OpenAI, Timeout
from redis.asyncio import Redis

from carpool.notices import CHANGED_CHANNEL
from carpool.routing import Leg, Route
from db.database import Database
from db.keys import NewKey, create_key
from db.routes import set_route
from tests import prepared_postgres

Json = dict[str, Any]
Found = TypeVar("Found")

READY_SECONDS = 120.0
"""Enough for a loaded machine; a stack with vLLM is given more by its starter."""
END_SECONDS = 60.0
WAIT_SECONDS = 60.0
PATIENT = Timeout(600, connect=WAIT_SECONDS)
"""A stock client's, but for the 5 s in which it must be let in."""
LOOK_SECONDS = 0.01
LOOK_GROWTH = 1.3
LONGEST_LOOK_SECONDS = 0.1
"""A look may cost as much as what it waits for: what does not come at once is looked for less."""
OUTPUT_FILE = "up.log"
READY_LINE = "Ctrl-C ends it"
FAST = {
    "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "0",
    "CARPOOL_SIMULATED_TOKEN_MS": "0",
    "CARPOOL_HEARTBEAT_SECONDS": "0.2",
}
"""Answers at once, and heartbeats that tell soon what a run holds."""
MODEL = "simulated"
CARPOOL = (sys.executable, "-P", "-m", "cli.main")

IN_FLIGHT = "select coalesce(sum(in_flight), 0) from runs where ended_at is null"


@dataclass(kw_only=True, slots=True)
class Stack:
    """A running `carpool up`; everything that it prints lies in ``directory / "up.log"``."""

    directory: Path
    process: subprocess.Popen[bytes]
    base_url: str
    """Ends in ``/v1``."""
    api_key: str
    admin_key: str
    database_url: str
    redis_url: str

    def pids(self) -> dict[str, int]:
        """The living children by name: postgres, valkey, api, ``worker simulated-1``, …"""
        record = json.loads((self.directory / "processes.json").read_bytes())
        return {process["name"]: process["pid"] for process in record["processes"]}

    def pid(self, name: str) -> int:
        """One child's pid; KeyError where it does not live at the moment."""
        return self.pids()[name]

    def output(self) -> str:
        """What all processes of the stack have printed so far."""
        return (self.directory / OUTPUT_FILE).read_text()

    @property
    def root_url(self) -> str:
        """Where ``/healthz`` and its like are."""
        return self.base_url.removesuffix("/v1")

    def client(self, **options: Any) -> OpenAI:
        """A stock client that does not retry unless ``max_retries`` says so; to be closed."""
        return OpenAI(**self._options(options))

    def async_client(self, **options: Any) -> AsyncOpenAI:
        """The same, asynchronous."""
        return AsyncOpenAI(**self._options(options))

    def http(self, key: str | None = None) -> httpx.AsyncClient:
        """A bare HTTP client, for what a stock client does not send; to be closed."""
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {key or self.api_key}"},
            timeout=WAIT_SECONDS,
            limits=httpx.Limits(max_connections=None),
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection, for what no HTTP client sends; hung up at the end."""
        address = urlsplit(self.base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def replace(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End one child, and wait for the one that is started in its place; its pid.

        A new API is ready when this returns; a new worker may still be at its start.
        """
        old = self.pid(name)
        os.kill(old, number)

        async def replaced() -> int | None:
            pid = self.pids().get(name, old)
            return pid if pid != old and (name != "api" or await self.ready()) else None

        return await eventually(replaced, END_SECONDS)

    async def ready(self) -> bool:
        """Whether the API says that it can serve."""
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.root_url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def new_key(self, team: str, *, owner: str | None = None) -> NewKey:
        """Make a key, and its team where that is new."""
        async with self.database() as database:
            return await create_key(database, team=team, name="test", owner=owner)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Carpool's own way to the stack's database."""
        database = Database(self.database_url, pool_size=1)
        try:
            yield database
        finally:
            await database.close()

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """The rows of one statement."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows: list[Any] = await connection.fetch(sql, *arguments)
            return rows
        finally:
            await connection.close()

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first column of the first row; None where there is none."""
        rows = await self.fetch(sql, *arguments)
        return rows[0][0] if rows else None

    @asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Let nobody write to a table for the length of the context."""
        connection = await asyncpg.connect(self.database_url)
        try:
            async with connection.transaction():
                await connection.execute(f"lock table {table} in exclusive mode")
                yield
        finally:
            await connection.close()

    async def blocked(self) -> int:
        """How many statements wait for a lock."""
        return int(
            await self.value("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
        )

    async def route(self, model: str, backend: str) -> None:
        """Route a model to one backend, there `MODEL`, and wait until the API knows the model."""
        route = Route(legs=(Leg(backend=backend, upstream=MODEL),))
        async with self.database() as database:
            await set_route(database, model, route, actor="test", backends={backend})
        await self.announce_change()
        async with self.http() as http:

            async def known() -> bool:
                listed = (await http.get("/models")).json()["data"]
                return model in [found["id"] for found in listed]

            await eventually(known)

    async def announce_change(self) -> None:
        """Tell the API that keys or routes have changed, as whoever changes them may."""
        async with Redis.from_url(self.redis_url) as redis:
            await redis.publish(CHANGED_CHANNEL, b"")

    async def nothing_in_flight(self) -> None:
        """Wait until the engines hold nothing, as the heartbeats of their runs tell."""

        async def idle() -> bool:
            return bool(await self.value(IN_FLIGHT) == 0)

        await eventually(idle)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it in order; the exit code of `up`."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def hurry(self) -> int:
        """End it without waiting for what it does; the exit code of `up`."""
        self.process.send_signal(signal.SIGTERM)
        return self.stop(signal.SIGINT)

    def kill(self) -> None:
        """Kill `up` by -9, and return when its guard has ended all that it left."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(END_SECONDS)
        _, alive = psutil.wait_procs(children, timeout=END_SECONDS)
        assert not alive, alive

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        mine = {
            "base_url": self.base_url,
            "api_key": self.api_key,
            "max_retries": 0,
            "timeout": PATIENT,
        }
        return mine | options


def start_stack(
    directory: Path,
    env: Mapping[str, str] | None = None,
    *,
    options: tuple[str, ...] = (),
    ready_seconds: float = READY_SECONDS,
) -> Stack:
    """Start `carpool up`, and return when it is ready.

    ``env`` goes over `FAST` and an environment without what would configure another Carpool;
    ``options`` are further ones of the command (``--workers 2``, say). AssertionError, with what it
    printed, where it ends or takes too long.
    """
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / OUTPUT_FILE
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*CARPOOL, "up", "--data-dir", str(directory), "--port", "0", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=clean_environment() | FAST | dict(env or {}),
            start_new_session=True,
        )
    deadline = time.monotonic() + ready_seconds
    while READY_LINE not in (printed := output.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            process.wait(END_SECONDS)
            raise AssertionError(f"`carpool up` is not ready:\n{printed}")
        time.sleep(LOOK_SECONDS)
    connection = json.loads((directory / "connection.json").read_bytes())
    return Stack(directory=directory, process=process, **connection)


@contextmanager
def stack_in_temporary_directory(
    env: Mapping[str, str] | None = None, *, prepared: bool = True, **options: Any
) -> Iterator[Stack]:
    """A stack that ends with the context, whatever state it is in; its data go with it.

    Its Postgres is a copy of a prepared one, unless it is to be as durable as another's.
    The directory is short, so that sockets fit, and outside pytest's own, which the account of
    the embedded Postgres cannot enter.
    """
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    try:
        if prepared:
            prepared_postgres.give(directory)
        stack = start_stack(directory, env, **options)
        try:
            yield stack
        finally:
            if stack.process.poll() is None:
                stack.hurry()
    finally:
        shutil.rmtree(directory)


def clean_environment() -> dict[str, str]:
    """Without what would configure another Carpool."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARPOOL_", "OPENAI_"))
    }


async def eventually(
    look: Callable[[], Awaitable[Found | None]], seconds: float = WAIT_SECONDS
) -> Found:
    """What a look finds once it finds something true; TimeoutError where it never does."""
    pause = LOOK_SECONDS
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(pause)
            pause = min(pause * LOOK_GROWTH, LONGEST_LOOK_SECONDS)
        return found
