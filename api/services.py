"""What the handlers share: the connections of one API process, and its life among the others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog

from api.admin_watch import Watch
from api.auth import KeyRing
from api.batch_watch import BatchWatch
from api.catalog import Catalog
from api.queue_metrics import QueueMetrics
from api.remembered import Remembered
from api.waiting import Waiting
from carpool import metrics
from carpool.background import Background
from carpool.dispatch import make_broker
from carpool.doorbell import Doorbell
from carpool.errors import ConfigurationError
from carpool.ids import new_id
from carpool.settings import Settings, patient_of
from carpool.store import open_store
from db.database import Database, DatabaseAway, Lane
from db.delivery import attach_all, store_deliveries, store_disconnects
from db.follow import Origin
from db.group import GroupCommit
from db.prices import ensure_prices
from db.processes import Process
from db.refusal import forget_refused
from db.routes import ensure_routes
from db.situation import Situation, read_situation
from db.submit import Submission, submit
from db.sweeper import Sweeper

SUBMIT_LIMIT = 256
DELIVERY_LIMIT = 2048
POOL_SIZE = 8
ENTER_SECONDS = 1.0
SITUATION_SECONDS = 1.0
"""How old what is told of routes and backends to those who ask why they wait may be."""
NOBODY = UUID(int=0)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that was taken in, the connection that waits for it, and its Idempotency-Key."""

    request: UUID
    connection: UUID
    key: UUID | None = None
    cache: str | None = None
    """``Cache-Status`` (RFC 9211), where the model's route keeps answers."""
    age_seconds: float | None = None
    """Of an answer that was kept."""

    @property
    def cache_headers(self) -> dict[str, str]:
        """Whether the answer was kept, and for how long it has been."""
        headers = {} if self.cache is None else {"cache-status": self.cache}
        if self.age_seconds is not None:
            headers["age"] = str(int(self.age_seconds))
        return headers


class Services:
    """Made once for each process; `running` brings it to life."""

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None or settings.redis_url is None:
            raise ConfigurationError("database_url and redis_url: the API needs both")
        redis_url = settings.redis_url.get_secret_value()
        self.settings = settings
        self.incarnation = new_id()
        self.database = Database(
            settings.database_url.get_secret_value(),
            pool_size=POOL_SIZE,
            timeout_seconds=settings.database_timeout_seconds,
        )
        self.doorbell = Doorbell(redis_url, timeout_seconds=settings.redis_timeout_seconds)
        self.keys = KeyRing(self.database)
        self.catalog = Catalog(self.database)
        self.patient = frozenset(patient_of(settings.backends))
        self.waiting = Waiting(self.incarnation, self.database, self.doorbell, self._changed)
        self.store = open_store(settings)
        self.queue_metrics = QueueMetrics(self.database)
        self.batch_watch = BatchWatch(self.doorbell)
        self.situation: Remembered[None, Situation] = Remembered(
            lambda _: read_situation(self.database), seconds=SITUATION_SECONDS
        )
        self.watch = Watch(
            self.database,
            self.doorbell,
            self.catalog,
            {name: backend.kind for name, backend in settings.backends.items()},
        )
        self.submissions: GroupCommit[Submission, Origin | None] = GroupCommit(
            self.database,
            submit,
            limit=SUBMIT_LIMIT,
            patience_seconds=settings.database_timeout_seconds,
            observe=metrics.group_size("submit"),
        )
        self.deliveries: GroupCommit[UUID, None] = GroupCommit(
            self.database,
            store_deliveries,
            limit=DELIVERY_LIMIT,
            lanes=1,
            observe=metrics.group_size("deliveries"),
        )
        self.disconnects: GroupCommit[tuple[UUID, UUID], None] = GroupCommit(
            self.database,
            self._store_disconnects,
            limit=SUBMIT_LIMIT,
            lanes=1,
            observe=metrics.group_size("disconnects"),
        )
        self._on_drain: dict[Callable[[], None], None] = {}
        self._process = Process(self.incarnation, "api", settings.seat)
        self.broker = make_broker(redis_url, timeout_seconds=settings.redis_timeout_seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Enter among the processes, serve in the background, and leave in order."""
        lane = self.database.lane()
        await self._enter(lane)
        for group in (self.submissions, self.deliveries, self.disconnects):
            group.start()
        background = Background()
        background.start(
            self.doorbell.serve(),
            self.waiting.listen(),
            self.batch_watch.listen(),
            self.watch.serve(),
            self.waiting.poll(self.settings.poll_seconds),
            self._beat(lane),
            Sweeper(self.settings, self.database, self.doorbell, self.broker).serve(),
        )
        try:
            yield
        finally:
            await self._settle()
            await background.close()
            await self.queue_metrics.close()
            try:
                await self._process.leave(lane)
            except DatabaseAway as error:
                log.warning("process_not_left", error=str(error))
            await lane.close()
            await self.doorbell.close()
            await self.store.close()
            await self.database.close()

    def delivered(self, ticket: Ticket) -> None:
        """Note that an answer's last byte was written."""
        self.deliveries.put(ticket.request)

    async def refuse(self, ticket: Ticket) -> None:
        """Forget a request that its engine refused as bad input, as if it had not been let in.

        Where that fails, it stays stored with its refusal.
        """
        try:
            await forget_refused(self.database, ticket.request, key=ticket.key)
        except DatabaseAway as error:
            log.warning("refusal_kept", request=str(ticket.request), error=str(error))

    def note_delivery(self, created: UUID) -> None:
        """Note that a client was told of what it created."""
        self.deliveries.put(created)

    def disconnected(self, ticket: Ticket, *, alone: bool) -> asyncio.Future[None]:
        """Note that a connection ended before its answer; resolves when that is stored.

        Where it was ``alone`` to wait for its request, the request's grace begins.
        """
        return self.disconnects.put((ticket.connection, ticket.request if alone else NOBODY))

    def on_drain(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be called when this process must end; returns what takes the wish back."""
        self._on_drain[callback] = None
        return lambda: self._on_drain.pop(callback, None)

    def drain(self) -> None:
        """Let every connection that still waits go: its client will ask again."""
        for callback in tuple(self._on_drain):
            callback()

    def _changed(self) -> None:
        self.keys.forget()
        self.catalog.forget()
        self.situation.forget()

    async def _enter(self, lane: Lane) -> None:
        while True:
            try:
                await self._process.enter(lane)
                await ensure_routes(self.database, self.settings.models)
                await ensure_prices(self.database, self.settings.prices)
                return
            except DatabaseAway as error:
                log.warning("database_away", error=str(error))
                await asyncio.sleep(ENTER_SECONDS)

    async def _beat(self, lane: Lane) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_seconds)
            try:
                if not await self._process.beat(lane):
                    log.warning("process_was_taken_for_dead")
                    await attach_all(lane, self.waiting.requests, self.incarnation)
            except DatabaseAway as error:
                log.warning("heartbeat_failed", error=str(error))

    async def _settle(self) -> None:
        """Store, for a while, what is still to be stored."""
        groups = (self.submissions, self.deliveries, self.disconnects)
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                for group in groups:
                    await group.drain()
        except TimeoutError:
            log.warning("deliveries_not_stored")
        for group in groups:
            await group.close()

    async def _store_disconnects(
        self, lane: Lane, ended: Sequence[tuple[UUID, UUID]], again: bool
    ) -> Sequence[None]:
        await store_disconnects(
            lane,
            ended,
            incarnation=self.incarnation,
            grace_seconds=self.settings.grace_seconds,
        )
        # Another connection may have come for a request while the end of the last one was noted.
        returned = [request for _, request in ended if request in self.waiting]
        if returned:
            await attach_all(lane, returned, self.incarnation)
        return [None] * len(ended)
