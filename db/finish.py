"""How a claim ends: with a result, with another attempt to come, or handed back."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from carpool.states import Outcome
from db.database import Lane
from db.sql import load

FINISH = load("finish")
RETRY = load("retry")
RELEASE = load("release")


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


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that failed for a passing reason, and how long its request shall wait."""

    id: UUID
    epoch: int
    delay_seconds: float
    error: str


NOT_MINE = UUID(int=0)
"""What `finish` returns for an answer that was dropped."""


class Finisher:
    """Stores the results of one run."""

    def __init__(self, run: UUID, backend: str, worker: str) -> None:
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
        )
        channels = {row["id"]: row["channel"] for row in rows}
        return [channels.get(r.id, NOT_MINE) for r in results]

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
        )

    async def release(self, lane: Lane, claims: Sequence[tuple[UUID, int]]) -> Sequence[UUID]:
        """Hand (id, epoch) claims back, unharmed; returns the ids that were still this run's."""
        rows = await lane.fetch(RELEASE, self._run, [c[0] for c in claims], [c[1] for c in claims])
        return [row["id"] for row in rows]
