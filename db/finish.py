"""How a claim ends: with a result, with another attempt to come, or handed back."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from carpool.notices import Finished, Lost
from carpool.prices import UNKNOWN, Ledger
from carpool.states import Outcome
from db.database import Fetches, Lane
from db.follow import Leader, resolve, wake
from db.sql import load

FINISH = load("finish")
RETRY = load("retry")
RELEASE = load("release")
LIMITED_SINCE = """
select exists (
    select from attempts
    where id = $1 and outcome = 'limited' and ended_at < now() - make_interval(secs => $2)
)
"""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to store. Of a stream, ``body`` is its chunks, one JSON text a line."""

    id: UUID
    epoch: int
    outcome: Outcome
    status_code: int
    body: bytes
    attempts: int
    upstream: str
    first_token_at: datetime | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    written_tokens: int = 0
    ledger: Ledger = UNKNOWN


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that failed for a passing reason, and how long its request shall wait."""

    id: UUID
    epoch: int
    delay_seconds: float
    error: str
    counts: bool = True
    """As one of the request's attempts; a rate limit does not."""


NOT_MINE = UUID(int=0)
"""What `finish` returns for an answer that was dropped."""


async def limited_for(database: Fetches, request: UUID, seconds: float) -> bool:
    """Whether a request met its first rate limit longer than so many seconds ago."""
    rows = await database.fetch(LIMITED_SINCE, request, seconds)
    return bool(rows[0][0])


class Finisher:
    """Stores the results of one run, or of one provider batch."""

    def __init__(
        self, run: UUID, backend: str, worker: str, tell: Callable[[UUID, Finished | Lost], None]
    ) -> None:
        """``tell`` is given a channel, and what became of a request that followed another."""
        self._tell = tell
        self._run = run
        self._backend = backend
        self._worker = worker

    async def finish(
        self, lane: Lane, results: Sequence[Result], again: bool
    ) -> Sequence[UUID | None]:
        """Store the results whose claims still stand; for each the channel that waits for it.

        None: no one waits. NOT_MINE: the claim no longer stood, or an earlier try stored it.
        """
        rows = await lane.fetch(
            FINISH,
            self._run,
            [r.id for r in results],
            [r.epoch for r in results],
            [r.outcome for r in results],
            [r.status_code for r in results],
            [r.body for r in results],
            [r.attempts for r in results],
            [r.first_token_at for r in results],
            [r.prompt_tokens for r in results],
            [r.cached_tokens for r in results],
            [r.completion_tokens for r in results],
            [r.upstream for r in results],
            self._backend,
            self._worker,
            [r.written_tokens for r in results],
            [r.ledger.paid for r in results],
            [r.ledger.saved_prefix for r in results],
            [r.ledger.saved_window for r in results],
            [r.ledger.saved_own for r in results],
        )
        channels = {row["id"]: None if row["ghost"] else row["channel"] for row in rows}
        followed = {row["id"]: row["ghost"] for row in rows if row["followed"]}
        if followed:
            await self._resolve(lane, [r for r in results if r.id in followed], followed)
        return [channels.get(r.id, NOT_MINE) for r in results]

    async def _resolve(
        self, lane: Lane, results: Sequence[Result], ghosts: Mapping[UUID, bool]
    ) -> None:
        """End those that follow these; where this is cut off, the sweep does it."""
        leaders = [
            Leader(
                id=result.id,
                epoch=result.epoch,
                ghost=ghosts[result.id],
                status_code=result.status_code,
                body=result.body,
                upstream=result.upstream,
                prompt_tokens=result.prompt_tokens,
                cached_tokens=result.cached_tokens,
                written_tokens=result.written_tokens,
                completion_tokens=result.completion_tokens,
                paid=result.ledger.paid,
                saved_prefix=result.ledger.saved_prefix,
                saved_window=result.ledger.saved_window,
                saved_own=result.ledger.saved_own,
            )
            for result in results
            if result.outcome is Outcome.COMPLETED
        ]
        if leaders:
            for one in await resolve(
                lane, leaders, backend=self._backend, worker=self._worker, run=self._run
            ):
                if one.channel is not None:
                    self._tell(one.channel, one.notice)
        failed = [result for result in results if result.outcome is not Outcome.COMPLETED]
        for begun in (False, True):
            ids = [r.id for r in failed if (r.first_token_at is not None) == begun]
            if ids:
                for channel, lost in (await wake(lane, ids, begun=begun)).lost:
                    self._tell(channel, lost)

    async def retry(self, lane: Lane, failures: Sequence[Failure]) -> None:
        """Let failed requests wait for their next attempt."""
        await lane.fetch(
            RETRY,
            self._run,
            [f.id for f in failures],
            [f.epoch for f in failures],
            [f.delay_seconds for f in failures],
            [f.error.replace("\0", "")[:2000] for f in failures],
            self._backend,
            self._worker,
            [f.counts for f in failures],
        )

    async def release(self, lane: Lane, claims: Sequence[tuple[UUID, int]]) -> Sequence[UUID]:
        """Hand (id, epoch) claims back, unharmed; returns the ids that were still this run's."""
        rows = await lane.fetch(RELEASE, self._run, [c[0] for c in claims], [c[1] for c in claims])
        return [row["id"] for row in rows]
