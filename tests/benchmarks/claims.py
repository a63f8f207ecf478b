"""Row 7: how long a claim of 256 takes, among few rows, among millions, and behind dead ones."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg

from carpool.ids import id_at, new_id
from carpool.settings import ModelSettings
from carpool.states import ServiceClass
from cli.postgres import embedded_postgres
from db.claim import LOWEST_PREFIX, claim, waiting
from db.database import Database, Lane
from db.migrate import migrate
from db.routes import ensure_routes
from db.runs import begin_run
from tests.benchmarks.budgets import BUDGETS, CLAIM_ROW
from tests.benchmarks.cpu import Bystanders
from tests.benchmarks.explained import ExplainedLane
from tests.benchmarks.stack import directory
from tests.benchmarks.table import Line, Measured
from tests.benchmarks.waiting_rows import HEAD_SHARE, MODELS, delete_head, fill
from workers.claiming import LATE_COMMIT_SECONDS
from workers.map import Map
from workers.scheduler import Scheduler

BACKEND = "benchmark"
MANY = 5_000_000
FEW = 10_000
TAKE = 256
CLAIMS = 60
CLAIMS_AMONG_FEW = 15
"""More would leave teams without a row."""
AGE = timedelta(hours=1)
ORDERS = {ServiceClass.INTERACTIVE: "by age", ServiceClass.BATCH: "by prefix"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """The claims of one class: the milliseconds of each, and the last one's plan."""

    measured: Measured
    plan: str


class Claims:
    """A live run that claims as a worker does."""

    def __init__(self, url: str, lane: Lane, admin: Any) -> None:
        self._url = url
        self._lane = lane
        self._admin = admin
        self._run = new_id()
        self._begin = datetime.now(UTC) - AGE

    async def begin(self) -> None:
        """Become a run that may claim the rows that will wait."""
        begun = await begin_run(
            self._lane,
            run=self._run,
            backend=BACKEND,
            process=new_id(),
            worker="benchmark",
            capacity=TAKE,
        )
        assert begun

    async def fill(self, rows: int) -> None:
        """Let so many rows wait."""
        _say(f"row 7: {rows:,} rows begin to wait")
        await fill(self._admin, rows, self._begin)

    async def delete_head(self) -> None:
        """Remove two fifths of many rows from where the claims begin."""
        gone = await delete_head(self._admin, MANY, self._begin)
        _say(f"row 7: {gone:,} rows of the head were deleted")

    async def measure(self, claims: int) -> dict[ServiceClass, Claimed]:
        """Both orders, one after the other."""
        return {
            service_class: await self._measure(service_class, claims) for service_class in ORDERS
        }

    async def _measure(self, service_class: ServiceClass, claims: int) -> Claimed:
        """A new run's claims: from where the look found rows, then from their cursors."""
        scheduler = Scheduler(LOWEST_PREFIX)
        world = Map(BACKEND)
        await world.read(self._lane)
        self._version = world.version
        scheduler.route(world.cells, world.teams)
        firsts = await waiting(self._lane, world.cells)
        scheduler.look(f for f in firsts if f.group.cell.service_class is service_class)
        others = Bystanders()
        times = [await self._claim(scheduler) for _ in range(claims)]
        measured = Measured(tuple(times), others.percent())
        explained = ExplainedLane(self._url)
        await claim(explained, self._run, self._version, _plan(scheduler))
        return Claimed(measured=measured, plan=explained.plan)

    async def _claim(self, scheduler: Scheduler) -> float:
        picks = _plan(scheduler)
        began = time.perf_counter()
        claimed = await claim(self._lane, self._run, self._version, picks)
        milliseconds = 1000 * (time.perf_counter() - began)
        assert len(claimed) == TAKE, f"{len(claimed)} rows were claimed, not {TAKE}"
        scheduler.settle(picks, claimed, settled=_settled())
        return milliseconds


async def measure_claims() -> list[Line]:
    """All lines of row 7, in a database of their own; about two minutes."""
    async with _claims() as (claims, url):
        await claims.fill(FEW)
        few = await claims.measure(CLAIMS_AMONG_FEW)
        await claims.fill(MANY)
        states = {f"among {MANY / 1e6:g} million": await claims.measure(CLAIMS)}
        head = f"{MANY * HEAD_SHARE / 1e6:g} million deleted at the head"
        async with _snapshot(url):
            await claims.delete_head()
            states[f"{head}, old snapshot"] = await claims.measure(CLAIMS)
        states[f"{head}"] = await claims.measure(CLAIMS)
    return [
        _line(f"{ORDERS[order]}, {state}", claimed, few[order].measured)
        for order in ORDERS
        for state, measured in states.items()
        for claimed in (measured[order],)
    ]


@asynccontextmanager
async def _claims() -> AsyncIterator[tuple[Claims, str]]:
    """A durable embedded Postgres with the schema, the routes and a live run."""
    with directory() as data:
        async with embedded_postgres(data / "postgres", log=data / "log") as url:
            await asyncio.to_thread(migrate, url)
            database = Database(url, pool_size=1)
            lane, admin = database.lane(), await asyncpg.connect(url)
            try:
                routes = {model: ModelSettings(backends=(BACKEND,)) for model in MODELS}
                await ensure_routes(database, routes)
                claims = Claims(url, lane, admin)
                await claims.begin()
                yield claims, url
            finally:
                await admin.close()
                await lane.close()
                await database.close()


@asynccontextmanager
async def _snapshot(url: str) -> AsyncIterator[None]:
    """Hold a snapshot open, so that no row that is deleted meanwhile can be removed."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetch("select id from queue limit 1")
            yield
    finally:
        await connection.close()


def _plan(scheduler: Scheduler) -> Any:
    return scheduler.plan(free=TAKE, in_flight=0, now=datetime.now(UTC))


def _settled() -> UUID:
    return id_at(datetime.now(UTC) - timedelta(seconds=LATE_COMMIT_SECONDS))


def _line(state: str, claimed: Claimed, few: Measured) -> Line:
    budget = BUDGETS[CLAIM_ROW]
    return Line(
        row=CLAIM_ROW,
        what=f"{budget.what} {state}",
        unit=budget.unit,
        first=budget.first,
        then=2 * median(few.values),
        measured=claimed.measured,
        yardstick=few,
        problem="its plan reads the whole queue" if "Seq Scan on queue" in claimed.plan else None,
        plan=claimed.plan,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
