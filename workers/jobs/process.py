"""A jobs process: moves batches on, folds their counts, and cleans up; runs no engine."""

import asyncio
import signal
from contextlib import suppress
from uuid import UUID

import dramatiq
import structlog
import uvloop
from dramatiq.brokers.redis import RedisBroker

from carpool import collector
from carpool import log as logs
from carpool.background import Background
from carpool.dispatch import JOBS_ACTOR, JOBS_QUEUE, make_broker
from carpool.doorbell import Doorbell
from carpool.errors import ConfigurationError, StoreAway
from carpool.ids import new_id
from carpool.notices import BATCHES_CHANNEL, JOBS_CHANNEL, decode_batches
from carpool.settings import Settings
from carpool.store import open_store
from db.batch_sweep import any_open, fold
from db.database import Database, DatabaseAway
from db.files import clean_files
from db.processes import Process
from db.sweeper import Sweeper, dispatch_jobs
from workers.door import open_door
from workers.jobs.advance import Advance
from workers.jobs.context import JobContext

POOL_SIZE = 8
FOLD_SECONDS = 0.2
"""How often counts are folded while a batch is open; else it is left to the sweep."""
ENTER_SECONDS = 1.0
log = structlog.get_logger()


def serve(settings: Settings) -> int:
    """Serve jobs until SIGTERM or SIGINT; the exit code. Blocks."""
    logs.configure(as_json=settings.log_json)
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigurationError("database_url and redis_url: jobs need both")
    collector.relax()
    uvloop.run(Jobs(settings).serve())
    return 0


class Jobs:
    """Takes jobs from dramatiq and from the doorbell, whichever tells first."""

    def __init__(self, settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.redis_url is not None
        redis_url = settings.redis_url.get_secret_value()
        self._settings = settings
        self._database = Database(
            settings.database_url.get_secret_value(),
            pool_size=POOL_SIZE,
            timeout_seconds=settings.database_timeout_seconds,
        )
        self._doorbell = Doorbell(redis_url, timeout_seconds=settings.redis_timeout_seconds)
        self._broker = make_broker(redis_url, timeout_seconds=settings.redis_timeout_seconds)
        self._store = open_store(settings)
        self._process = Process(new_id(), "jobs", settings.seat)
        self._advance = Advance(
            JobContext(
                settings=settings,
                database=self._database,
                doorbell=self._doorbell,
                store=self._store,
                process=self._process.id,
            )
        )
        self._draining = asyncio.Event()

    async def serve(self) -> None:
        """Serve until drained. A job that is cut off is begun again by another process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._draining.set)
        async with open_door(self._settings, self._doorbell, self._is_ready):
            await self._serve()

    async def _serve(self) -> None:
        lane = self._database.lane()
        await self._enter()
        background = Background()
        background.start(
            self._process.live(self._database, self._settings.heartbeat_seconds),
            self._doorbell.serve(),
            self._doorbell.listen((JOBS_CHANNEL,), self._heard, _nothing),
            self._fold(),
            self._clean(),
            Sweeper(self._settings, self._database, self._doorbell, self._broker).serve(),
        )
        listener = _Listener(self._broker, self._advance)
        await asyncio.to_thread(listener.start)
        try:
            await self._draining.wait()
        finally:
            await self._advance.close()
            await asyncio.to_thread(listener.stop)
            await background.close()
            with suppress(DatabaseAway):
                await self._process.leave(lane)
            await lane.close()
            await self._store.close()
            await self._doorbell.close()
            await self._database.close()

    async def _is_ready(self) -> bool:
        """Whether it reaches the database, and is not about to end."""
        try:
            await self._database.fetch("select 1")
        except DatabaseAway:
            return False
        return not self._draining.is_set()

    async def _enter(self) -> None:
        while True:
            try:
                return await self._process.enter(self._database)
            except DatabaseAway as error:
                log.warning("database_away", error=str(error))
                await asyncio.sleep(ENTER_SECONDS)

    async def _fold(self) -> None:
        lane = self._database.lane()
        pause = self._settings.poll_seconds
        try:
            while True:
                await asyncio.sleep(pause)
                try:
                    pause = FOLD_SECONDS if await any_open(lane) else self._settings.poll_seconds
                    if pause > FOLD_SECONDS:
                        continue
                    changed, completed = await fold(lane)
                    self._doorbell.tell_of_batches(BATCHES_CHANNEL, changed)
                    await dispatch_jobs(self._doorbell, self._broker, completed)
                except DatabaseAway as error:
                    log.warning("fold_failed", error=str(error))
        finally:
            await lane.close()

    async def _clean(self) -> None:
        while True:
            try:
                await clean_files(self._database, self._store)
            except (DatabaseAway, StoreAway) as error:
                log.warning("clean_failed", error=str(error))
            await asyncio.sleep(self._settings.clean_seconds)

    def _heard(self, channel: str, data: bytes) -> None:
        for notice in decode_batches(data):
            self._advance.begin(notice.id)


class _Listener:
    """dramatiq's side: an actor whose message moves a batch on."""

    def __init__(self, broker: RedisBroker, advance: Advance) -> None:
        loop = asyncio.get_running_loop()

        def act(batch: str) -> None:
            loop.call_soon_threadsafe(advance.begin, UUID(hex=batch))

        dramatiq.actor(actor_name=JOBS_ACTOR, queue_name=JOBS_QUEUE, broker=broker)(act)
        self._worker = dramatiq.Worker(broker, queues={JOBS_QUEUE}, worker_threads=1)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()


async def _nothing() -> None:
    """What was said before a connection is said again by the sweep."""
