"""A real Postgres for the tests of `db`, and one migrated database for each of them.

The server of the session keeps nothing over a crash of the machine (fsync is off), which no test
here is about.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest_asyncio
from sqlalchemy.engine import make_url

from carpool.ids import new_id
from carpool.notices import Finished, Lost
from carpool.routing import Cell, Kind, Leg, Route, cells
from carpool.states import Outcome, ServiceClass
from cli.postgres import embedded_postgres
from db.claim import Claim, Group, Pick, claim
from db.database import LANE_SETTINGS, Database, DatabaseAway, Lane
from db.finish import Finisher, Result
from db.migrate import migrate
from db.routes import read_routing, routing_version, set_route
from db.runs import begin_run
from db.submit import Submission, submit
from tests.stack import eventually

TEMPLATE = "template_carpool"
BACKEND = "engine"
MODEL = "tiny"
TEAM = 1
BLOCKED = """
select pid from pg_stat_activity
where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0
"""
# A function of ours goes before Postgres's own of its name. It is ahead of the columns' defaults,
# which are by that one.
STILL_CLOCK = """
create table still_clock as select clock_timestamp() + interval '1 hour' as at;
create function clock_timestamp() returns timestamptz language sql volatile
    as 'select at from still_clock';
do $$ begin
    execute format('alter database %I set search_path = public, pg_catalog', current_database());
end $$
"""
WAIT_SECONDS = 20.0
PLACES = ("after", "after_key", "before", "due_before")
_numbers = count()


class OpenLane(Lane):
    """A lane whose statements stay in one open transaction until `commit` or `rollback`."""

    def __init__(self, connection: Any) -> None:
        super().__init__(make_url("postgresql://"), WAIT_SECONDS)
        self.connection = connection
        self._transaction = connection.transaction()

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        rows: Sequence[Any] = await self.connection.fetch(sql, *arguments)
        return rows

    async def begin(self) -> "OpenLane":
        await self._transaction.start()
        return self

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()

    @property
    def pid(self) -> int:
        return int(self.connection.get_server_pid())


class TestRun:
    """A live run: what it claims and finishes goes over a lane of its own."""

    __test__ = False

    def __init__(self, bench: "Bench", identifier: UUID, process: UUID, backend: str) -> None:
        self.id = identifier
        self.process = process
        self.backend = backend
        self.lane = bench.lane()
        self.told: list[tuple[UUID, Finished]] = []
        """Of those that followed: the channel, and what was told."""
        self.told_lost: list[tuple[UUID, Lost]] = []
        self.finisher = Finisher(identifier, backend, "worker", self._tell)

    def _tell(self, channel: UUID, notice: Finished | Lost) -> None:
        if isinstance(notice, Lost):
            self.told_lost.append((channel, notice))
        else:
            self.told.append((channel, notice))

    async def claim(self, take: int, *, lane: Lane | None = None, **group: Any) -> list[Claim]:
        """Claim of one group: the interactive rows of the usual team, unless told otherwise."""
        lane = lane or self.lane
        return await claim(lane, self.id, await routing_version(lane), [pick(take, **group)])

    async def finish(
        self, claims: Sequence[Claim], *, lane: Lane | None = None
    ) -> Sequence[UUID | None]:
        """Store a success for each."""
        results = [result(claimed) for claimed in claims]
        return await self.finisher.finish(lane or self.lane, results, False)


class Bench:
    """One database, with a team, a route and whatever a test puts there."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.database = Database(url, pool_size=5)
        self._stack = stack
        self._admin: Any = None
        self._one_at_a_time = asyncio.Lock()
        stack.push_async_callback(self.database.close)

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        """Run one statement outside of what is tested."""
        async with self._one_at_a_time:
            if self._admin is None:
                self._admin = await asyncpg.connect(self.url, timeout=WAIT_SECONDS)
                self._stack.callback(self._admin.terminate)
            rows: list[Any] = await self._admin.fetch(query, *arguments)
            return rows

    async def value(self, query: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return (await self.sql(query, *arguments))[0][0]

    async def stop_clock(self) -> None:
        """Let `clock_timestamp` stand still, for connections that are opened from now on."""
        await (await self.connection()).execute(STILL_CLOCK)
        await self.database.close()

    async def turn_clock(self, seconds: float) -> None:
        """Turn a clock on that was stopped."""
        await self.sql("update still_clock set at = at + make_interval(secs => $1)", seconds)

    async def connection(self) -> Any:
        """A connection with a lane's settings, closed with the bench."""
        opened = await asyncpg.connect(
            self.url, timeout=WAIT_SECONDS, server_settings=LANE_SETTINGS
        )
        self._stack.callback(opened.terminate)
        return opened

    async def open_lane(self) -> OpenLane:
        """A lane in an open transaction."""
        return await OpenLane(await self.connection()).begin()

    def lane(self) -> Lane:
        """A lane, closed with the bench."""
        made = self.database.lane()
        self._stack.push_async_callback(made.close)
        return made

    async def route(self, model: str = MODEL, backend: str = BACKEND) -> None:
        """Give a model a route of one leg."""
        await set_route(
            self.database,
            model,
            Route(legs=(Leg(backend=backend),)),
            actor="test",
            backends={backend},
        )

    async def cells(self, backend: str = BACKEND) -> list[Cell]:
        """What a backend may claim now."""
        routing = await read_routing(self.lane())
        return [
            cell
            for model, route in routing.routes.items()
            for cell in cells(model, route.legs, backend, live=routing.live)
        ]

    async def fill(self, number: int, **columns: Any) -> list[UUID]:
        """Submit so many requests alike; their ids, oldest first."""
        items = [submission(**columns) for _ in range(number)]
        await submit(self.lane(), items, False)
        return [item.id for item in items]

    async def process(self) -> UUID:
        identifier = new_id()
        await self.sql(
            "insert into processes (id, kind, host, pid) values ($1, 'worker', 'here', 1)",
            identifier,
        )
        return identifier

    async def run(self, backend: str = BACKEND, *, process: UUID | None = None) -> TestRun:
        """A run that has begun, of a live process."""
        made = TestRun(self, new_id(), process or await self.process(), backend)
        assert await begin_run(
            made.lane,
            run=made.id,
            backend=backend,
            process=made.process,
            worker="worker",
            capacity=256,
        )
        return made

    async def end_process(self, run: TestRun) -> None:
        """Let a run's process be dead, as its successor in the seat does."""
        await self.sql("update processes set ended_at = now() where id = $1", run.process)

    async def until_blocked(self, pid: int) -> None:
        """Return when a backend waits for another's lock."""

        async def blocked() -> bool:
            return bool(await self.value("select cardinality(pg_blocking_pids($1)) > 0", pid))

        await eventually(blocked)

    async def blocked_pid(self) -> int:
        """The backend that waits for a lock, once there is one."""
        rows = await eventually(lambda: self.sql(BLOCKED))
        return int(rows[0]["pid"])

    async def row(self, identifier: UUID) -> Any:
        """A request's queue row, or None."""
        rows = await self.sql("select * from queue where id = $1", identifier)
        return rows[0] if rows else None

    async def result(self, identifier: UUID) -> Any:
        """A request's result, or None."""
        rows = await self.sql("select * from results where id = $1", identifier)
        return rows[0] if rows else None


async def persist(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask again after a deadlock, as the lanes do; what was asked has not taken effect then."""
    while True:
        try:
            return await ask()
        except DatabaseAway:
            continue


def submission(**columns: Any) -> Submission:
    """A request of the usual team, interactive unless told otherwise."""
    values: dict[str, Any] = {
        "id": new_id(),
        "team_id": TEAM,
        "key_id": UUID(int=1),
        "person": None,
        "service_class": ServiceClass.INTERACTIVE,
        "endpoint": 0,
        "model": MODEL,
        "streamed": False,
        "body": b"{}",
        "fingerprint": UUID(int=2),
        "share": None,
        "prefix_key": 0,
    }
    return Submission(**(values | columns))


def pick(take: int, **columns: Any) -> Pick:
    """A pick of the usual group, or of another, in its bounds (`PLACES`)."""
    cursor = {name: columns.pop(name) for name in PLACES if name in columns}
    model = columns.pop("model", MODEL)
    service_class = columns.pop("service_class", ServiceClass.INTERACTIVE)
    cell = columns.pop("cell", None) or cell_of(model, service_class)
    return Pick(group=Group(cell=cell, **({"team_id": TEAM} | columns)), take=take, **cursor)


@cache
def cell_of(model: str = MODEL, service_class: ServiceClass = ServiceClass.INTERACTIVE) -> Cell:
    """The cell of all rows of a model and class without a share; the same at each call."""
    return Cell(
        model=model, upstream=model, service_class=service_class, kind=Kind.WHOLE, teams=None
    )


def result(claimed: Claim, **columns: Any) -> Result:
    """A success of three tokens, unless told otherwise."""
    values: dict[str, Any] = {
        "id": claimed.id,
        "epoch": claimed.epoch,
        "outcome": Outcome.COMPLETED,
        "status_code": 200,
        "body": b"answer",
        "attempts": claimed.attempts + 1,
        "upstream": claimed.upstream,
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "completion_tokens": 2,
    }
    return Result(**(values | columns))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def db_server() -> AsyncIterator[str]:
    """The URL of a server that holds a migrated template."""
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    try:
        async with embedded_postgres(directory / "postgres", durable=False) as url:
            await _execute(url, f"create database {TEMPLATE}")
            await asyncio.to_thread(migrate, named(url, TEMPLATE), partition_days=1)
            yield url
    finally:
        shutil.rmtree(directory)


@pytest_asyncio.fixture
async def empty_database(db_server: str) -> str:
    """The URL of a database without a schema."""
    name = f"t{next(_numbers)}"
    await _execute(db_server, f"create database {name}")
    return named(db_server, name)


@pytest_asyncio.fixture
async def bench(db_server: str) -> AsyncIterator[Bench]:
    """A migrated database with one route, thrown away after the test."""
    name = f"t{next(_numbers)}"
    await _execute(db_server, f"create database {name} template {TEMPLATE} strategy file_copy")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_execute, db_server, f"drop database {name} (force)")
        made = Bench(named(db_server, name), stack)
        await made.route()
        yield made


def named(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=WAIT_SECONDS)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
