"""A run: one worker serving one backend, a stretch of continuous batching."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from carpool.background import Background
from carpool.doorbell import Doorbell
from carpool.errors import EngineDied, PassingError, Unavailable
from carpool.ids import id_at, new_id
from carpool.notices import (
    MAX_INLINE_BYTES,
    Finished,
    Gone,
    Waiting,
    backend_channel,
    decode_bells,
    run_channel,
)
from carpool.settings import Settings
from carpool.states import ENDPOINTS, Outcome, ServiceClass
from db.claim import Claim, Group, claim, waiting
from db.database import Database, DatabaseAway, Lane
from db.finish import NOT_MINE, Failure, Finisher, Result
from db.group import GroupCommit
from db.runs import beat_run, begin_run, end_run, release_strays
from workers.backends.protocol import Answer, Backend, Call
from workers.scheduler import Scheduler
from workers.streaming import Stream

FINISH_LIMIT = 512
LATE_COMMIT_SECONDS = 2.0
"""An id older than this is committed or never will be: cursors stay behind it."""
PATIENCE_SECONDS = 3600.0
"""How long an answer waits for Postgres; a lease that lapsed meanwhile makes it void anyway."""
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
RECOVERY_SECONDS = 0.2
log = structlog.get_logger()


class Run:
    """Keeps a backend full: claims while slots are free, answers, stores, until told to drain."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        doorbell: Doorbell,
        backend: Backend,
        process: UUID,
    ) -> None:
        self.id = new_id()
        self.engine_died = False
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._backend = backend
        self._process = process
        self._worker = f"{process.hex[-12:]}"
        self._scheduler = Scheduler(int.from_bytes(self.id.bytes[-8:], "big", signed=True))
        self._held: dict[UUID, tuple[int, asyncio.Task[None]]] = {}
        self._running = 0
        self._draining = False
        self._ended = False
        self._healthy = True
        self._look_at = 0.0
        self._wake = asyncio.Event()
        finisher = Finisher(self.id, backend.name, self._worker)
        self._finisher = finisher
        self._results = GroupCommit(
            database, finisher.finish, limit=FINISH_LIMIT, patience_seconds=PATIENCE_SECONDS
        )
        self._failures = GroupCommit(database, self._retry, limit=FINISH_LIMIT, lanes=1)

    def drain(self) -> None:
        """Claim no more; `serve` returns when what is held is answered or handed back."""
        self._draining = True
        self._wake.set()

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
            self._results.start()
            self._failures.start()
            background = Background()
            background.start(
                self._beat(),
                self._check_health(),
                self._doorbell.listen(
                    (backend_channel(self._backend.name), run_channel(self.id)),
                    self._heard,
                    self._connected,
                ),
            )
            try:
                await self._claim_for_ever()
                await self._wind_down()
            finally:
                await background.close()
                await self._results.close()
                await self._failures.close()
            return True
        finally:
            await lane.close()

    @property
    def _over(self) -> bool:
        return self._draining or self._ended or self.engine_died

    async def _claim_for_ever(self) -> None:
        lane = self._database.lane()
        try:
            while not self._over:
                now = time.monotonic()
                try:
                    if now >= self._look_at:
                        self._scheduler.note(await waiting(lane, self._backend.name))
                        self._look_at = now + self._settings.poll_seconds
                    free = self._backend.capacity - self._running if self._healthy else 0
                    picks = self._scheduler.plan(free=free, in_flight=len(self._held), now=now)
                    if picks:
                        settled = id_at(datetime.now(UTC) - timedelta(seconds=LATE_COMMIT_SECONDS))
                        claims = await claim(lane, self.id, self._backend.name, picks)
                        self._scheduler.settle(picks, claims, settled=settled)
                        for claimed in claims:
                            self._start(claimed)
                        continue
                except DatabaseAway as error:
                    self._look_at = 0.0
                    log.warning("claim_failed", error=str(error))
                    await asyncio.sleep(RECOVERY_SECONDS)
                    continue
                await self._sleep(self._look_at - now)
        finally:
            await lane.close()

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        handle = asyncio.get_running_loop().call_later(max(seconds, 0), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            handle.cancel()

    def _start(self, claimed: Claim) -> None:
        self._running += 1
        task = asyncio.create_task(self._serve(claimed))
        self._held[claimed.id] = (claimed.epoch, task)

    async def _serve(self, claimed: Claim) -> None:
        stream = Stream(self._doorbell, claimed)
        try:
            try:
                answer = await self._backend.answer(
                    Call(
                        id=claimed.id,
                        endpoint=ENDPOINTS[claimed.endpoint],
                        model=claimed.model,
                        upstream=claimed.upstream,
                        body=claimed.body,
                        stream=claimed.streamed,
                        service_class=ServiceClass(claimed.service_class),
                    ),
                    stream.emit,
                )
            finally:
                self._running -= 1
                if not self._scheduler.idle or not self._held:
                    self._wake.set()
            await self._finish(claimed, answer, stream)
        except EngineDied as error:
            log.error("engine_died", backend=self._backend.name, error=str(error))
            self.engine_died = True
        except PassingError as error:
            await self._failed(claimed, error, stream)
        except Unavailable as error:
            log.error("answer_lost", request=str(claimed.id), error=str(error))
        except Exception as error:
            log.exception("backend_bug", request=str(claimed.id))
            await self._failed(claimed, PassingError(f"{type(error).__name__}"), stream)
        finally:
            held = self._held.get(claimed.id)
            if held is not None and held[0] == claimed.epoch and not self.engine_died:
                del self._held[claimed.id]
            self._wake.set()

    async def _finish(self, claimed: Claim, answer: Answer, stream: Stream) -> None:
        succeeded = answer.status == 200
        outcome = Outcome.COMPLETED if succeeded else Outcome.FAILED
        streamed = claimed.streamed and succeeded
        channel = await self._results.put(
            Result(
                id=claimed.id,
                epoch=claimed.epoch,
                outcome=outcome,
                status_code=answer.status,
                body=stream.text() if streamed else answer.body,
                attempts=claimed.attempts + 1,
                upstream=claimed.upstream,
                first_token_at=stream.first_at,
                prompt_tokens=answer.usage.prompt_tokens,
                cached_tokens=answer.usage.cached_tokens,
                completion_tokens=answer.usage.completion_tokens,
            )
        )
        if channel is None or channel == NOT_MINE:
            return
        inline = not streamed and len(answer.body) <= MAX_INLINE_BYTES
        self._doorbell.notify(
            channel,
            Finished(
                claimed.id,
                claimed.epoch,
                outcome,
                answer.status,
                answer.body if inline else None,
                len(stream.chunks),
            ),
        )

    async def _failed(self, claimed: Claim, error: PassingError, stream: Stream) -> None:
        attempts = claimed.attempts + 1
        log.warning(
            "attempt_failed", request=str(claimed.id), attempt=attempts, reason=error.reason
        )
        if attempts >= self._settings.max_attempts or stream.chunks:
            await self._finish(claimed, Answer(status=error.status, body=error.body), stream)
            return
        delay = error.retry_after_seconds or _backoff(attempts)
        await self._failures.put(
            Failure(id=claimed.id, epoch=claimed.epoch, delay_seconds=delay, error=error.reason)
        )

    async def _retry(self, lane: Lane, failures: Sequence[Failure], again: bool) -> Sequence[None]:
        await self._finisher.retry(lane, failures)
        return [None] * len(failures)

    async def _beat(self) -> None:
        lane = self._database.lane()
        try:
            while True:
                await asyncio.sleep(self._settings.heartbeat_seconds)
                try:
                    held = [(identifier, epoch) for identifier, (epoch, _) in self._held.items()]
                    beat = await beat_run(lane, self.id, held)
                    if not beat.alive:
                        log.warning("run_lost_its_lease", run=str(self.id))
                        self._ended = True
                        self._wake.set()
                        return
                    epochs = dict(held)
                    for identifier in beat.gone:
                        self._abort(identifier, epochs[identifier])
                    if beat.strays:
                        log.warning("strays_released", count=len(beat.strays))
                        await release_strays(lane, self.id, beat.strays)
                except DatabaseAway as error:
                    log.warning("heartbeat_failed", error=str(error))
        finally:
            await lane.close()

    async def _check_health(self) -> None:
        while not self.engine_died:
            await asyncio.sleep(self._settings.health_seconds)
            try:
                async with asyncio.timeout(self._settings.health_seconds):
                    await self._backend.health()
                self._healthy = True
            except EngineDied as error:
                log.error("engine_died", backend=self._backend.name, error=str(error))
                self.engine_died = True
            except (PassingError, TimeoutError) as error:
                log.warning("backend_unhealthy", backend=self._backend.name, reason=str(error))
                self._healthy = False
            self._wake.set()

    def _heard(self, channel: str, data: bytes) -> None:
        for bell in decode_bells(data):
            match bell:
                case Waiting():
                    group = Group(
                        model=bell.model,
                        service_class=ServiceClass(bell.service_class),
                        team_id=bell.team_id,
                    )
                    self._scheduler.note((group,))
                    self._wake.set()
                case Gone():
                    self._abort(bell.id, bell.epoch)

    async def _connected(self) -> None:
        self._look_at = 0.0
        self._wake.set()

    def _abort(self, identifier: UUID, epoch: int) -> None:
        held = self._held.get(identifier)
        if held is not None and held[0] == epoch:
            held[1].cancel()

    async def _wind_down(self) -> None:
        """Let what is held finish for a while, then hand it back; leave it if it is not ours."""
        tasks = [task for _, task in self._held.values()]
        if not self._ended:
            if tasks and not self.engine_died:
                await asyncio.wait(tasks, timeout=self._settings.drain_seconds)
            await self._stored()
        claims = [
            (identifier, epoch)
            for identifier, (epoch, task) in self._held.items()
            if not task.done()
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ended:
            return
        lane = self._database.lane()
        try:
            # The rows of an engine that died are left to the sweep, which counts the loss.
            if claims and not self.engine_died:
                await self._finisher.release(lane, claims)
            await end_run(lane, self.id)
        except DatabaseAway as error:
            log.warning("run_not_ended", run=str(self.id), error=str(error))
        finally:
            await lane.close()
        log.info("run_ended", run=str(self.id), handed_back=len(claims))

    async def _stored(self) -> None:
        """Wait, for a while, until all that is answered is stored."""
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._results.drain()
                await self._failures.drain()
        except TimeoutError:
            log.warning("answers_not_stored", run=str(self.id))


def _backoff(attempts: int) -> float:
    """Exponential with full jitter, in seconds."""
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**attempts)
    return random.uniform(longest / 2, longest)
