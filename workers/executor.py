"""One claim's way: asked of the backend, its answer stored, its client told."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import structlog

from carpool import metrics, tracing
from carpool.doorbell import Doorbell
from carpool.errors import EngineDied, PassingError, Unavailable
from carpool.log import cause
from carpool.notices import MAX_INLINE_BYTES, Finished, Reads, Source
from carpool.prices import Ledger
from carpool.settings import Settings
from carpool.span_attributes import STORED
from carpool.states import ENDPOINTS, Outcome, ServiceClass
from db.claim import Claim
from db.database import Database, DatabaseAway, Lane
from db.finish import NOT_MINE, Failure, Finisher, Result, limited_for
from db.group import GroupCommit
from workers.backends.protocol import Answer, Backend, Call, Usage
from workers.metrics import figures_of
from workers.streaming import Stream
from workers.traces import Traces, answered

FINISH_LIMIT = 512
RATE_LIMITED = 429
PATIENCE_SECONDS = 3600.0
"""How long an answer waits for Postgres; a lease that lapsed meanwhile makes it void anyway."""
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
MAX_LONG_BACKOFF_SECONDS = 900.0
LONG_BACKOFF_SHARE = 1 / 20
"""Of the time that is left: an outage of a day costs a request some 200 attempts, not thousands."""
MAX_DOUBLINGS = 16
LIMITED_BACKOFF_CLAIMS = 4
"""After so many claims the wait for the next attempt grows no more."""
MOST_EARLY = 1000
"""Of so many claims that have not come yet it is kept who reads them."""
LIMITED_SECONDS = 3600.0
"""How long a request without a deadline meets rate limits until it is told of them."""
log = structlog.get_logger()


class Watching(Protocol):
    """The run, which learns how its claims fare."""

    id: UUID

    def freed(self) -> None:
        """The backend is done with a claim, which is not stored yet."""

    def met(self, error: PassingError | None) -> None:
        """The backend has answered a claim, or failed for a passing reason."""

    def ledger(self, claimed: Claim, usage: Usage) -> Ledger:
        """What a claim's answer has cost."""


class Executor:
    """Executes the claims of one run, and stores what comes of them in groups."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        doorbell: Doorbell,
        backend: Backend,
        finisher: Finisher,
        run: Watching,
    ) -> None:
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._backend = backend
        self._finisher = finisher
        self._run = run
        self._figures = figures_of(backend.name)
        self._traces = Traces(backend.name, settings.backends.get(backend.name), run.id)
        self._results: GroupCommit[Result, UUID | None] = GroupCommit(
            database,
            finisher.finish,
            limit=FINISH_LIMIT,
            patience_seconds=PATIENCE_SECONDS,
            observe=metrics.group_size("results"),
        )
        self._failures: GroupCommit[Failure, None] = GroupCommit(
            database,
            self._retry,
            limit=FINISH_LIMIT,
            lanes=1,
            patience_seconds=PATIENCE_SECONDS,
            observe=metrics.group_size("failures"),
        )
        self._streams: dict[UUID, Stream] = {}
        self._early: dict[UUID, dict[UUID, Reads]] = {}
        self.answering: set[UUID] = set()
        """What the backend is busy with; what is answered and not stored yet is not of it."""

    @property
    def unread(self) -> set[UUID]:
        """What the backend is busy with and no chunk was told of: it may begin anew elsewhere."""
        return {identifier for identifier, stream in self._streams.items() if not stream.chunks}

    def read(self, reads: Reads) -> None:
        """Let a request have the chunks of a claim that the backend is busy with.

        Whoever began to follow just behind the claim may be heard of before the claim is.
        """
        stream = self._streams.get(reads.id)
        if stream is not None:
            stream.read(reads)
            return
        if len(self._early) >= MOST_EARLY:
            del self._early[next(iter(self._early))]
        self._early.setdefault(reads.id, {})[reads.request] = reads

    def _let_read(self, claimed: Claim, stream: Stream) -> None:
        """Let those read who were heard of before; of those it names, the claim knows better."""
        early = self._early.pop(claimed.id, None)
        if early:
            known = {claimed.id, *(follower for follower, _ in claimed.followers)}
            for request, reads in early.items():
                if request not in known:
                    stream.read(reads)

    def start(self) -> None:
        """Begin to store."""
        self._results.start()
        self._failures.start()

    async def stored(self, *, timeout_seconds: float) -> bool:
        """Wait until all that was answered is stored; False where that takes too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._results.drain()
                await self._failures.drain()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Store no more."""
        await self._results.close()
        await self._failures.close()

    async def execute(self, claimed: Claim) -> None:
        """Answer a claim, and store what comes of it; raises EngineDied alone."""
        with self._traces.claim(claimed):
            await self._execute(claimed)

    async def _execute(self, claimed: Claim) -> None:
        stream = Stream(self._doorbell, claimed, Source(self._backend.name, claimed.upstream))
        try:
            answer = await self._answer(claimed, stream)
            self._run.met(None)
            await self._finish(claimed, answer, stream)
        except EngineDied:
            raise
        except PassingError as error:
            self._run.met(error)
            await self._fail(claimed, error, stream, patient=_heals(error))
        except Unavailable as error:
            log.error("answer_lost", **_about(claimed), error=cause(error))
        except Exception as error:
            log.exception("backend_bug", **_about(claimed))
            bug = PassingError(type(error).__name__, status=500)
            await self._fail(claimed, bug, stream, patient=False)

    async def _answer(self, claimed: Claim, stream: Stream) -> Answer:
        call = Call(
            id=claimed.id,
            endpoint=ENDPOINTS[claimed.endpoint],
            model=claimed.model,
            upstream=claimed.upstream,
            body=claimed.body,
            stream=claimed.streamed,
            service_class=ServiceClass(claimed.service_class),
            team_id=claimed.team_id,
            prefix_key=claimed.prefix_key,
        )
        self.answering.add(claimed.id)
        self._streams[claimed.id] = stream
        self._let_read(claimed, stream)
        began_at = datetime.now(UTC)
        try:
            answer = await self._ask(claimed, call, stream)
            self._figures.answered(
                claimed, began_at=began_at, ended_at=datetime.now(UTC), first_at=stream.first_at
            )
            return answer
        finally:
            self.answering.discard(claimed.id)
            del self._streams[claimed.id]
            self._run.freed()

    async def _ask(self, claimed: Claim, call: Call, stream: Stream) -> Answer:
        with self._traces.call(claimed) as span:
            try:
                answer = await self._backend.answer(call, stream.emit)
            except PassingError as error:
                span.fail(str(error.status))
                raise
            answered(span, claimed, answer)
            return answer

    async def _finish(self, claimed: Claim, answer: Answer, stream: Stream) -> None:
        succeeded = answer.status == 200
        if not succeeded:
            tracing.current().fail(str(answer.status))
        outcome = Outcome.COMPLETED if succeeded else Outcome.FAILED
        streamed = claimed.streamed and succeeded
        result = Result(
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
            written_tokens=answer.usage.written_tokens,
            ledger=self._run.ledger(claimed, answer.usage),
        )
        with self._traces.store() as span:
            channel = await self._results.put(result)
            span.set({STORED: channel != NOT_MINE})
        if channel == NOT_MINE:
            self._figures.dropped(claimed.model)
            return
        self._figures.stored(claimed, result)
        if channel is None:
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
                Source(self._backend.name, claimed.upstream),
            ),
        )

    async def _fail(
        self, claimed: Claim, error: PassingError, stream: Stream, *, patient: bool
    ) -> None:
        """Let it be tried again later, unless that is in vain or its client has read from it.

        ``patient``: as often as its deadline allows, if it has one.
        """
        attempts = claimed.attempts + error.counts
        tracing.current().fail(str(error.status))
        log.warning(
            "attempt_failed",
            **_about(claimed),
            attempt=attempts,
            status=error.status,
            error=cause(error),
        )
        delay = delay_seconds(claimed, error)
        if stream.chunks or await self._is_in_vain(claimed, error, delay, patient=patient):
            await self._finish(claimed, Answer(status=error.status, body=error.body), stream)
            return
        await self._failures.put(
            Failure(
                id=claimed.id,
                epoch=claimed.epoch,
                delay_seconds=delay,
                error=error.reason,
                counts=error.counts,
            )
        )
        self._figures.returned(claimed.model, error.body, limited=not error.counts)

    async def _is_in_vain(
        self, claimed: Claim, error: PassingError, delay: float, *, patient: bool
    ) -> bool:
        """Whether another attempt, after a delay in seconds, would be too late or one too many."""
        left = left_seconds(claimed)
        if left is not None and (delay >= left or patient):
            return delay >= left
        if error.counts:
            return claimed.attempts + 1 >= self._settings.max_attempts
        if claimed.epoch == 1:
            return False
        try:
            return await limited_for(self._database, claimed.id, LIMITED_SECONDS)
        except DatabaseAway:
            return False

    async def _retry(self, lane: Lane, failures: Sequence[Failure], again: bool) -> Sequence[None]:
        await self._finisher.retry(lane, failures)
        return [None] * len(failures)


def _about(claimed: Claim) -> dict[str, Any]:
    """What logs tell of a claim."""
    about: dict[str, Any] = {"request": claimed.id, "team": claimed.team_id}
    return about if claimed.batch_id is None else {**about, "batch": claimed.batch_id}


def _heals(error: PassingError) -> bool:
    """Whether time may heal it, for nothing: not an answer that is none and is paid each time, nor
    spent money, nor a request too large for a limit."""
    return not error.paid and not (error.counts and error.status == RATE_LIMITED)


def left_seconds(claimed: Claim) -> float | None:
    """How long it is until a claim's deadline; None where it has none."""
    if claimed.deadline is None:
        return None
    return (claimed.deadline - datetime.now(UTC)).total_seconds()


def delay_seconds(claimed: Claim, error: PassingError) -> float:
    """How long a request waits for its next attempt.

    A rate limit holds the backend, for as long as it asks, and not the request, which another may
    take meanwhile; only not all of those that one storm sends back come again at one moment.
    """
    if error.counts:
        backoff = backoff_seconds(claimed.attempts + 1, left=left_seconds(claimed))
        return max(error.retry_after_seconds or 0.0, backoff)
    return random.uniform(0, backoff_seconds(min(claimed.epoch, LIMITED_BACKOFF_CLAIMS)))


def backoff_seconds(attempts: int, *, left: float | None = None) -> float:
    """Doubles with each attempt, with jitter over its upper half.

    With many seconds ``left`` before a deadline it grows longer than without one.
    """
    most = MAX_BACKOFF_SECONDS
    if left is not None:
        most = min(MAX_LONG_BACKOFF_SECONDS, max(most, left * LONG_BACKOFF_SHARE))
    longest = min(most, BACKOFF_SECONDS * 2.0 ** min(attempts, MAX_DOUBLINGS))
    return random.uniform(longest / 2, longest)
