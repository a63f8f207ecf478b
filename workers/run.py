"""A run: one worker serving one backend, a stretch of continuous batching."""

import asyncio
from contextlib import suppress
from functools import partial
from uuid import UUID

import structlog
from msgspec.structs import replace

from carpool.background import Background
from carpool.doorbell import Doorbell
from carpool.engine import EngineFigures
from carpool.errors import EngineDied, PassingError
from carpool.ids import new_id
from carpool.notices import (
    CHANGED_CHANNEL,
    Gone,
    Waiting,
    backend_channel,
    decode_bells,
    decode_reads,
    readers_channel,
    run_channel,
)
from carpool.prices import Ledger
from carpool.settings import Settings
from db.claim import Claim, StaleRoutesError, waiting
from db.database import Database, DatabaseAway, Lane
from db.finish import Finisher
from db.runs import beat_run, begin_run, end_run, release_strays, set_accepting
from db.sweeper import ring_backends
from workers.backends.protocol import Backend, Usage
from workers.claiming import Claiming, settled
from workers.executor import Executor
from workers.map import Map
from workers.metrics import HELD, figures_of
from workers.readiness import Readiness
from workers.scheduler import Scheduler

RECOVERY_SECONDS = 0.2
log = structlog.get_logger()


class Run:
    """Keeps a backend full: claims while slots are free, until told to drain."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        doorbell: Doorbell,
        backend: Backend,
        process: UUID,
    ) -> None:
        self.id = new_id()
        self._readers = readers_channel(self.id)
        self.engine_died = False
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._backend = backend
        self._process = process
        self._worker = process.hex[-12:]
        self._scheduler = Scheduler(int.from_bytes(self.id.bytes[-8:], "big", signed=True))
        self._finisher = Finisher(self.id, backend.name, self._worker, doorbell.notify)
        self._executor = Executor(settings, database, doorbell, backend, self._finisher, self)
        self._readiness = Readiness(
            backend, health_seconds=settings.health_seconds, turned=self._turn, died=self._bury
        )
        self._map = Map(backend.name, own=settings.backends[backend.name].own)
        self._claiming = Claiming(self.id, backend, self._scheduler, self._map)
        self._held: dict[UUID, tuple[Claim, asyncio.Task[None]]] = {}
        self._figures = figures_of(backend.name)
        self._draining = False
        self._resumed = asyncio.Event()
        self._ended = False
        self._wake = asyncio.Event()
        self._look_now = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def drain(self) -> None:
        """Claim no more; `serve` returns when what is held is answered or handed back."""
        self._draining = True
        self._resumed.clear()
        self._wake.set()

    def resume(self) -> None:
        """Claim again, where what is held is still being answered."""
        self._draining = False
        self._resumed.set()

    async def serve(self) -> bool:
        """Take a slot and serve until drained, ended by others, or the engine's death.

        False where there is no slot. Returns only when nothing is held any more.
        """
        lane = self._database.lane()
        try:
            if not await begin_run(
                lane,
                run=self.id,
                backend=self._backend.name,
                process=self._process,
                worker=self._worker,
                capacity=self._backend.capacity,
            ):
                return False
            log.info("run_started", run=str(self.id), backend=self._backend.name)
            self._figures.run_started()
            HELD.labels(self._backend.name).set_function(lambda: len(self._held))
            self._doorbell.announce(CHANGED_CHANNEL)
            self._executor.start()
            background = Background()
            background.start(
                self._look(),
                self._beat(),
                self._readiness.check(),
                self._readiness.tell(),
                self._doorbell.listen(
                    (
                        *(backend_channel(self._backend.name), run_channel(self.id)),
                        *(self._readers, CHANGED_CHANNEL),
                    ),
                    self._heard,
                    self._connected,
                ),
            )
            try:
                await self._claim_for_ever(lane)
                while self._draining and not await self._answered():
                    await self._claim_for_ever(lane)
                await self._wind_down(lane)
            finally:
                await background.close()
                await self._executor.close()
                self._figures.run_ended(self._end)
            return True
        finally:
            await lane.close()

    @property
    def _end(self) -> str:
        """Why it ends."""
        if self.engine_died:
            return "engine_died"
        return "lost" if self._ended else "drained"

    async def _claim_for_ever(self, lane: Lane) -> None:
        while not (self._draining or self._ended or self.engine_died):
            self._wake.clear()
            try:
                if not await self._claim(lane):
                    await self._wake.wait()
            except StaleRoutesError:
                self._look_now.set()
                await self._wake.wait()
            except DatabaseAway as error:
                log.warning("claim_failed", error=str(error))
                await asyncio.sleep(RECOVERY_SECONDS)
                self._look_now.set()

    async def _claim(self, lane: Lane) -> bool:
        """Claim what the scheduler plans, and begin it; False where it plans nothing."""
        free = self._readiness.allowance(self._backend.capacity - len(self._executor.answering))
        if self._scheduler.idle or free <= 0:
            self._wake_in(self._readiness.pause_seconds)
            return False
        claims = await self._claiming.claim(lane, free=free, in_flight=len(self._held))
        if claims is None:
            self._wake_in(self._claiming.pause_seconds)
            return False
        self._readiness.started(len(claims))
        for claimed in claims:
            if claimed.stopped:
                continue
            task = asyncio.create_task(self._execute(claimed))
            self._held[claimed.id] = (claimed, task)
            task.add_done_callback(partial(self._let_go, claimed))
        # Each begins, and so takes its slot, before the free ones are counted again.
        await asyncio.sleep(0)
        return True

    def _wake_in(self, seconds: float | None) -> None:
        """Wake once; of bells that ring meanwhile each would leave a timer of its own."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)

    async def _execute(self, claimed: Claim) -> None:
        try:
            await self._executor.execute(claimed)
        except EngineDied as error:
            self._bury(error)

    def _let_go(self, claimed: Claim, task: asyncio.Task[None]) -> None:
        """Hold a claim no more; also one that was aborted before its task began to run.

        What a dead engine held stays held: the run ends with it, and the sweep returns it.
        """
        if not self.engine_died and self._epoch(claimed.id) == claimed.epoch:
            del self._held[claimed.id]
        self.freed()

    def freed(self) -> None:
        """The backend is done with a claim."""
        if not self._scheduler.idle:
            self._wake.set()

    def met(self, error: PassingError | None) -> None:
        """The backend has answered a claim, or failed for a passing reason."""
        self._readiness.met(error)

    def ledger(self, claimed: Claim, usage: Usage) -> Ledger:
        """What a claim's answer has cost."""
        return self._map.ledger(claimed, usage)

    async def _look(self) -> None:
        """Look for what no bell told, beside the claims, which it must not hold up."""
        lane = self._database.lane()
        try:
            while True:
                self._look_now.clear()
                try:
                    if await self._map.read(lane):
                        self._scheduler.route(self._map.cells, self._map.teams)
                    firsts = await waiting(lane, self._map.cells, self._map.teams)
                    self._scheduler.look(firsts)
                    if firsts:
                        self._wake.set()
                except DatabaseAway as error:
                    log.warning("look_failed", error=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_seconds):
                        await self._look_now.wait()
        finally:
            await lane.close()

    async def _beat(self) -> None:
        """Keep the lease; let go of what was taken away, hand back what is owned unknowingly."""
        lane = self._database.lane()
        try:
            while not self._ended:
                await asyncio.sleep(self._settings.heartbeat_seconds)
                held = [(identifier, held.epoch) for identifier, (held, _) in self._held.items()]
                try:
                    beat = await beat_run(lane, self.id, held, self._engine)
                    if beat.strays:
                        log.warning("strays_released", count=len(beat.strays))
                        await release_strays(lane, self.id, beat.strays)
                except DatabaseAway as error:
                    log.warning("heartbeat_failed", error=str(error))
                    continue
                epochs = dict(held)
                for identifier in beat.gone:
                    self._abort(identifier, epochs[identifier])
                if not beat.alive:
                    log.warning("run_lost_its_lease", run=str(self.id))
                    self._ended = True
                    self._wake.set()
        finally:
            await lane.close()

    @property
    def _engine(self) -> EngineFigures:
        """What the engine says of itself, and of which kind it is."""
        kind = self._settings.backends[self._backend.name].kind
        return replace(self._backend.figures() or EngineFigures(), kind=kind)

    async def _turn(self, accepts: bool) -> None:
        """Say whether the backend takes requests; what it holds goes to the route's next."""
        lane = self._database.lane()
        try:
            await self._say(lane, accepts)
            self._doorbell.announce(CHANGED_CHANNEL)
            if not accepts:
                await self._hand_over(lane)
        except DatabaseAway as error:
            log.warning("hand_over_failed", error=str(error))
        finally:
            await lane.close()
        self._wake.set()

    async def _say(self, lane: Lane, accepts: bool) -> None:
        while True:
            try:
                return await set_accepting(lane, self.id, accepting=accepts)
            except DatabaseAway as error:
                log.warning("turn_failed", error=str(error))
                await asyncio.sleep(RECOVERY_SECONDS)

    async def _hand_over(self, lane: Lane) -> None:
        """Hand back what another backend may answer, but for streams that have begun."""
        moving = [
            (claimed, task)
            for claimed, task in self._held.values()
            if claimed.id in self._executor.unread and self._map.leads_elsewhere(claimed.model)
        ]
        for _, task in moving:
            task.cancel()
        await asyncio.gather(*(task for _, task in moving), return_exceptions=True)
        if moving:
            claims = [claimed for claimed, _ in moving]
            await self._finisher.release(lane, [(c.id, c.epoch) for c in claims])
            groups = {Waiting(c.model, c.service_class, c.team_id, c.rank, c.share) for c in claims}
            await ring_backends(lane, self._doorbell, groups)
            log.info("handed_over", backend=self._backend.name, requests=len(claims))

    def _bury(self, error: EngineDied) -> None:
        if not self.engine_died:
            log.error("engine_died", backend=self._backend.name, error=str(error))
        self.engine_died = True
        self._wake.set()

    def _heard(self, channel: str, data: bytes) -> None:
        if channel == CHANGED_CHANNEL:
            self._look_now.set()
            return
        if channel == self._readers:
            for reads in decode_reads(data):
                self._executor.read(reads)
            return
        for bell in decode_bells(data):
            match bell:
                case Waiting():
                    self._scheduler.note(bell, settled=settled())
                    self._wake.set()
                case Gone():
                    self._abort(bell.id, bell.epoch)

    async def _connected(self) -> None:
        self._look_now.set()

    def _epoch(self, identifier: UUID) -> int | None:
        held = self._held.get(identifier)
        return None if held is None else held[0].epoch

    def _abort(self, identifier: UUID, epoch: int) -> None:
        # One that is being stored may be gone because it is stored: its client must still be told.
        if identifier in self._executor.answering and self._epoch(identifier) == epoch:
            self._held[identifier][1].cancel()

    async def _answered(self) -> bool:
        """Let what is held finish for a while; False where it is to claim again meanwhile."""
        held = [task for _, task in self._held.values()]
        if not held or self.engine_died or self._ended:
            return True
        waits = [
            asyncio.create_task(self._resumed.wait()),
            asyncio.create_task(asyncio.wait(held, timeout=self._settings.drain_seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not waits[0].done()  # that it resumed, though it may be drained again by now

    async def _wind_down(self, lane: Lane) -> None:
        """Hand back what is held and not answered; leave it if it is not ours.

        The rows of an engine that died are left to the sweep, which counts their loss.
        """
        tasks = [task for _, task in self._held.values()]
        limit = self._settings.drain_seconds
        if not self._ended and not await self._executor.stored(timeout_seconds=limit):
            log.warning("answers_not_stored", run=str(self.id))
        unfinished = [(i, held.epoch) for i, (held, task) in self._held.items() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ended:
            return
        try:
            if unfinished and not self.engine_died:
                await self._finisher.release(lane, unfinished)
            await end_run(lane, self.id)
            self._doorbell.announce(CHANGED_CHANNEL)
        except DatabaseAway as error:
            log.warning("run_not_ended", run=str(self.id), error=str(error))
        log.info("run_ended", run=str(self.id), handed_back=len(unfinished))
