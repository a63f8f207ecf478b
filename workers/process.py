"""A worker process: one engine, served by one run after another."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dramatiq
import structlog
import uvloop
from dramatiq.brokers.redis import RedisBroker

from carpool import collector, tracing
from carpool import log as logs
from carpool.background import Background
from carpool.dispatch import ACTOR, make_broker, run_queue
from carpool.doorbell import Doorbell
from carpool.errors import BackendError, ConfigurationError, PassingError
from carpool.ids import new_id
from carpool.log import cause
from carpool.notices import CHANGED_CHANNEL
from carpool.settings import OpenAIBatchSettings, Settings
from db.database import Database, DatabaseAway
from db.prices import ensure_prices
from db.processes import Process
from db.routes import discover_routes, ensure_routes
from db.sweeper import Sweeper
from workers.backends import registry
from workers.backends.protocol import Backend
from workers.door import open_door
from workers.metrics import figures_of
from workers.run import Run

if TYPE_CHECKING:
    from workers.provider_batches.run import ProviderRun

EXIT_ENGINE_DIED = 70
CLOSE_SECONDS = 20.0
UNASKED_POLLS = 3
"""A free worker that no message reaches for so many polls looks for a slot unasked."""
log = structlog.get_logger()


def serve(settings: Settings, backend: str) -> int:
    """Serve a backend until SIGTERM or SIGINT; the exit code. Blocks."""
    logs.configure(as_json=settings.log_json)
    if backend not in settings.backends:
        raise ConfigurationError(f"backends.{backend}: there is no such backend")
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigurationError("database_url and redis_url: a worker needs both")
    tracing.start("worker")
    collector.relax()
    try:
        return uvloop.run(Worker(settings, backend).serve())
    finally:
        tracing.stop()


class Worker:
    """Holds what outlives a run: the engine, the process's row, the connections."""

    def __init__(self, settings: Settings, backend: str) -> None:
        assert settings.database_url is not None
        assert settings.redis_url is not None
        redis_url = settings.redis_url.get_secret_value()
        self._settings = settings
        self._name = backend
        self._database = Database(
            settings.database_url.get_secret_value(),
            pool_size=2,
            timeout_seconds=settings.database_timeout_seconds,
        )
        self._doorbell = Doorbell(redis_url, timeout_seconds=settings.redis_timeout_seconds)
        self._broker = make_broker(redis_url, timeout_seconds=settings.redis_timeout_seconds)
        self._process = Process(new_id(), "worker", settings.seat, backend=backend)
        self._backend: Backend = registry.make(backend, settings.backends[backend], self._database)
        self._run: Run | ProviderRun | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._draining = asyncio.Event()
        self._look = asyncio.Event()
        """Set when a run may be due, or none more is."""
        self._exit_code = 0
        self._figures = figures_of(backend)
        self._ready = False

    async def serve(self) -> int:
        """Start the engine, then serve runs until drained or the engine's death."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        async with open_door(self._settings, self._doorbell, self._is_ready):
            return await self._serve()

    async def _serve(self) -> int:
        lane = self._database.lane()
        await _until_reached(lambda: self._process.enter(lane))
        background = Background()
        background.start(
            self._process.live(self._database, self._settings.heartbeat_seconds),
            self._obey(),
            self._doorbell.serve(),
            self._doorbell.listen((CHANGED_CHANNEL,), self._heard, self._connected),
            Sweeper(self._settings, self._database, self._doorbell, self._broker).serve(),
        )
        try:
            await self._start_engine()
            if not self._draining.is_set():
                await self._serve_runs()
        finally:
            await self._close_engine()
            await background.close()
            try:
                await self._process.leave(lane)
            except DatabaseAway as error:
                log.warning("process_not_left", error=str(error))
            await lane.close()
            await self._doorbell.close()
            await self._database.close()
        return self._exit_code

    def _drain(self) -> None:
        log.info("worker_draining", backend=self._name)
        self._draining.set()
        self._look.set()
        if self._run is not None:
            self._run.drain()

    async def _obey(self) -> None:
        """Begin no run while an operator wants none; the engine stays as it is."""
        while True:
            await self._process.turned.wait()
            self._process.turned.clear()
            paused = self._process.paused
            log.info("worker_paused" if paused else "worker_resumed", backend=self._name)
            if paused:
                if self._run is not None:
                    self._run.drain()
            elif not self._draining.is_set():
                self._look.set()
                if isinstance(self._run, Run):
                    self._run.resume()

    def _heard(self, channel: str, data: bytes) -> None:
        self._process.look_now.set()

    async def _connected(self) -> None:
        self._process.look_now.set()

    async def _start_engine(self) -> None:
        await _until_reached(lambda: ensure_routes(self._database, self._settings.models))
        await _until_reached(lambda: ensure_prices(self._database, self._settings.prices))
        starting = asyncio.create_task(self._backend.start())
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait({starting, draining}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        starting.result()
        if not any(self._name in m.backends for m in self._settings.models.values()):
            await _until_reached(self._discover)
        self._doorbell.announce(CHANGED_CHANNEL)
        log.info("engine_ready", backend=self._name)
        self._figures.engine_ready(True)
        self._ready = True

    async def _is_ready(self) -> bool:
        return self._ready and not self._draining.is_set()

    async def _discover(self) -> None:
        """Make routes to the models that the backend itself reports."""
        await discover_routes(self._database, self._name, await self._backend.models())

    async def _serve_runs(self) -> None:
        listener = _Listener(self._broker, self._name, self._serve_run)
        await asyncio.to_thread(listener.start)
        try:
            while not self._draining.is_set():
                await self._free.wait()
                await self._serve_run()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_seconds * UNASKED_POLLS):
                        await self._look.wait()
                self._look.clear()
        finally:
            await self._free.wait()
            await asyncio.to_thread(listener.stop)

    async def _serve_run(self) -> None:
        """Serve one run to its end; returns at once where this process has one, or shall not."""
        if self._run is not None or self._draining.is_set() or self._process.paused:
            return
        self._free.clear()
        run = self._run = self._new_run()
        try:
            with structlog.contextvars.bound_contextvars(run=str(run.id), backend=self._name):
                await run.serve()
        except DatabaseAway as error:
            log.warning("run_failed", error=str(error))
        finally:
            self._run = None
            self._free.set()
        if run.engine_died:
            self._figures.engine_ready(False)
            self._exit_code = EXIT_ENGINE_DIED
            self._draining.set()
            self._look.set()

    def _new_run(self) -> "Run | ProviderRun":
        own = self._settings.backends[self._name]
        if isinstance(own, OpenAIBatchSettings):
            from workers.provider_batches.run import ProviderRun

            return ProviderRun(
                self._settings, self._database, self._doorbell, self._name, own, self._process.id
            )
        return Run(self._settings, self._database, self._doorbell, self._backend, self._process.id)

    async def _close_engine(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._backend.close()
        except (TimeoutError, BackendError, OSError) as error:
            log.warning("engine_not_closed", error=cause(error))


class _Listener:
    """dramatiq's side: an actor whose message lets this process serve a run."""

    def __init__(
        self, broker: RedisBroker, backend: str, serve: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            asyncio.run_coroutine_threadsafe(serve(), loop).result()

        queue = run_queue(backend)
        dramatiq.actor(actor_name=ACTOR, queue_name=queue, broker=broker)(run)
        self._worker = dramatiq.Worker(broker, queues={queue}, worker_threads=1)
        self._worker.queue_prefetch = 1  # a second run message belongs to another worker

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._worker.stop()


async def _until_reached(attempt: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Try until the database, or the provider, answers."""
    while True:
        try:
            return await attempt()
        except (DatabaseAway, PassingError) as error:
            log.warning("not_reached", error=cause(error))
            await asyncio.sleep(1)
