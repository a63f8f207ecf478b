"""A provider's output and error files: each line ends its request, or returns it to the queue.

A line's custom_id names the request and the claim; what was answered, cancelled or claimed anew
meanwhile is dropped by the queue itself, so that files may be read as often as it takes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import structlog

from carpool import metrics
from carpool.doorbell import Doorbell
from carpool.errors import PassingError, error_body
from carpool.lines import Line
from carpool.notices import MAX_INLINE_BYTES, Finished, Source
from carpool.prices import Ledger
from carpool.states import Outcome
from db.database import Database, Lane
from db.finish import NOT_MINE, Failure, Finisher, Result
from db.group import GroupCommit
from db.provider_batches import Member, ProviderBatch
from workers.backends import openai_body
from workers.backends.openai_body import NotAnAnswerError
from workers.backends.openai_errors import refuse
from workers.backends.protocol import Answer, Usage
from workers.executor import FINISH_LIMIT, backoff_seconds
from workers.metrics import figures_of
from workers.provider_batches.batch_file import parse_custom_id

CHUNK_BYTES = 8_000_000
"""Of answers that are held before they are stored."""
EXPIRED, CANCELLED = "batch_expired", "batch_cancelled"
UNANSWERED = frozenset({EXPIRED, CANCELLED})
"""The provider did not come to it: another try, elsewhere perhaps, needs no pause."""
EXPIRED_STATUS = 408
REASON_LENGTH = 300
log = structlog.get_logger()


class UnreadableError(Exception):
    """A line that says nothing of any request."""


class RubbishError(PassingError):
    """What came in place of a file: HTML, say."""


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True)
class Told:
    """What a line says of a request: its answer, or why there is none."""

    id: UUID
    epoch: int
    answer: Answer | PassingError
    whole: bool = False
    """Of all rows of its provider batch alike, which may be sent in vain for ever."""

    @property
    def heals(self) -> bool:
        """Whether time may heal it, and costs nothing but time."""
        error = self.answer
        if self.whole or not isinstance(error, PassingError) or error.paid:
            return False
        return error.status >= 500 or not error.counts


def read_line(text: bytes, *, backend: str, model: str) -> Told:
    """A line of an output or error file, ``model`` being the client's name of it.

    Raises UnreadableError for what is cut short, no JSON, or about no request of ours.
    """
    try:
        line = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"it is no line of a batch: {error}") from None
    name = parse_custom_id(line.custom_id)
    if name is None:
        raise UnreadableError("its custom_id is none of ours")
    return Told(*name, _answer(line, backend, model))


def _answer(line: _Line, backend: str, model: str) -> Answer | PassingError:
    if line.response is None:
        error = line.error or _Error()
        return unanswered(error.code, error.message)
    body = bytes(line.response.body)
    try:
        if line.response.status_code != 200:
            return refuse(backend, line.response.status_code, body, {})
        answered, usage = openai_body.answer(body, model)
        return Answer(body=answered, usage=usage)
    except NotAnAnswerError as error:
        return PassingError(f"The provider of backend '{backend}' failed: {error}.", paid=True)
    except PassingError as error:
        return error


def unanswered(code: str | None, message: str | None) -> PassingError:
    """Why a request was not answered, as its client is told if no attempt is left."""
    code = code or "backend_error"
    message = message or "The provider's batch gives no answer to this request."
    status = EXPIRED_STATUS if code == EXPIRED else 502
    return PassingError(
        f"{code}: {message}", status=status, body=error_body(message, "server_error", code=code)
    )


def missing(status: str) -> PassingError:
    """Of a request that stands in none of the files; one cancelled while validated has none."""
    if status == "cancelled":
        return unanswered(CANCELLED, "The provider's batch was cancelled.")
    return PassingError(
        f"The provider's batch is {status}, and its files hold no line of this request.", paid=True
    )


@dataclass(kw_only=True, slots=True)
class Count:
    """What became of the lines so far."""

    answered: int = 0
    returned: int = 0
    dropped: int = 0
    """Of rows that were not this batch's any more, or never: cancelled, doubled, unknown."""
    unreadable: int = 0
    ids: set[UUID] = field(default_factory=set)


class Reading:
    """Stores what the files of one provider batch say; ``async with`` begins and ends it."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        finisher: Finisher,
        batch: ProviderBatch,
        members: Iterable[Member],
        *,
        max_attempts: int,
        ledger: Callable[[Usage], Ledger],
    ) -> None:
        """``ledger`` says what an answer has cost."""
        self.count = Count()
        self._doorbell = doorbell
        self._finisher = finisher
        self._batch = batch
        self._members: Mapping[UUID, Member] = {member.id: member for member in members}
        self._max_attempts = max_attempts
        self._ledger = ledger
        self._results: GroupCommit[Result, UUID | None] = GroupCommit(
            database,
            finisher.finish,
            limit=FINISH_LIMIT,
            lanes=1,
            observe=metrics.group_size("results"),
        )
        self._failures: GroupCommit[Failure, None] = GroupCommit(
            database,
            self._retry,
            limit=FINISH_LIMIT,
            lanes=1,
            observe=metrics.group_size("failures"),
        )
        self._figures = figures_of(batch.backend)
        self._chunk: list[Told] = []
        self._bytes = 0

    async def __aenter__(self) -> "Reading":
        self._results.start()
        self._failures.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._results.close()
        await self._failures.close()

    async def read(self, lines: AsyncGenerator[Line, None]) -> None:
        """Store what a file says, in chunks; raises RubbishError where it says nothing at all."""
        readable, first = False, ""
        async with aclosing(lines):
            async for line in lines:
                try:
                    told = read_line(
                        line.text, backend=self._batch.backend, model=self._batch.model
                    )
                except UnreadableError as error:
                    self.count.unreadable += 1
                    first = first or f"line {line.number}: {error}"
                    continue
                readable = True
                await self.tell(told)
        await self.store()
        if first:
            name = str(self._batch.id)
            log.warning("lines_unreadable", provider_batch=name, first=first)
            if not readable:
                raise RubbishError(
                    f"The provider of backend '{self._batch.backend}' sent something else in place "
                    "of a file of results."
                )

    async def tell(self, told: Told) -> None:
        """Take what is known of one request; it is stored with others."""
        member = self._members.get(told.id)
        if member is None or member.epoch != told.epoch or told.id in self.count.ids:
            self.count.dropped += 1
            return
        self.count.ids.add(told.id)
        self._chunk.append(told)
        if isinstance(told.answer, Answer):
            self._bytes += len(told.answer.body)
        if len(self._chunk) >= FINISH_LIMIT or self._bytes >= CHUNK_BYTES:
            await self.store()

    async def store(self) -> None:
        """Store what was told and is not stored yet."""
        chunk, self._chunk, self._bytes = self._chunk, [], 0
        waiting: list[asyncio.Future[UUID | None]] = []
        results: list[Result] = []
        failures = []
        errors: list[PassingError] = []
        for told in chunk:
            result = self._result(told)
            if isinstance(result, Result):
                results.append(result)
                waiting.append(self._results.put(result))
            else:
                assert isinstance(told.answer, PassingError)
                errors.append(told.answer)
                failures.append(self._failures.put(result))
        channels = await asyncio.gather(*waiting, return_exceptions=True)
        for result, channel in zip(results, channels, strict=True):
            if isinstance(channel, asyncpg.DataError):
                # For ever: the file must not be read for ever, and the lines behind never.
                reason = f"The answer cannot be stored: {channel}"[:REASON_LENGTH]
                failure = PassingError(reason, paid=True)
                self._chunk.append(Told(result.id, result.epoch, failure))
            elif isinstance(channel, BaseException):
                raise PassingError(f"An answer was not stored: {channel!r}") from channel
            else:
                self._notify(result, channel)
        await asyncio.gather(*failures)
        self.count.returned += len(failures)
        for error in errors:
            self._figures.returned(self._batch.model, error.body, limited=not error.counts)
        if self._chunk:
            await self.store()

    def _result(self, told: Told) -> Result | Failure:
        member = self._members[told.id]
        attempts = member.attempts + 1
        answer = told.answer
        if isinstance(answer, PassingError):
            code = answer.reason.partition(":")[0]
            # Taken back, it may be, for others to answer in time; a deadline ends it in any case.
            taken_back = code == CANCELLED and self._batch.deadline is not None
            outlasted = member.deadline is not None and told.heals
            if attempts < self._max_attempts or taken_back or outlasted:
                return Failure(
                    id=told.id,
                    epoch=told.epoch,
                    delay_seconds=0.0 if code in UNANSWERED else _pause_seconds(member),
                    error=answer.reason,
                    counts=answer.counts or not outlasted,
                )
            answer = Answer(status=answer.status, body=answer.body)
        return Result(
            id=told.id,
            epoch=told.epoch,
            outcome=Outcome.COMPLETED if answer.status == 200 else Outcome.FAILED,
            status_code=answer.status,
            body=answer.body,
            attempts=attempts,
            upstream=self._batch.upstream,
            prompt_tokens=answer.usage.prompt_tokens,
            cached_tokens=answer.usage.cached_tokens,
            completion_tokens=answer.usage.completion_tokens,
            written_tokens=answer.usage.written_tokens,
            ledger=self._ledger(answer.usage),
        )

    def _notify(self, result: Result, channel: UUID | None) -> None:
        if channel == NOT_MINE:
            self.count.dropped += 1
            self._figures.dropped(self._batch.model)
            return
        self.count.answered += 1
        self._figures.counted(self._batch.model, result)
        if channel is not None:
            body = result.body if len(result.body) <= MAX_INLINE_BYTES else None
            self._doorbell.notify(
                channel,
                Finished(
                    result.id,
                    result.epoch,
                    result.outcome,
                    result.status_code,
                    body,
                    source=Source(self._batch.backend, self._batch.upstream),
                ),
            )

    async def _retry(self, lane: Lane, failures: Sequence[Failure], again: bool) -> Sequence[None]:
        await self._finisher.retry(lane, failures)
        return [None] * len(failures)


def _pause_seconds(member: Member) -> float:
    """Until a row is tried again."""
    left = None
    if member.deadline is not None:
        left = (member.deadline - datetime.now(UTC)).total_seconds()
    return backoff_seconds(member.attempts + 1, left=left)
