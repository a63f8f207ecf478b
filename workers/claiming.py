"""A run's claims: what the scheduler plans, as far as the backend lets it start."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from carpool.ids import id_at
from db.claim import Claim, Pick, claim
from db.database import Lane
from workers.backends.protocol import Backend
from workers.map import Map
from workers.metrics import figures_of
from workers.scheduler import Scheduler, takes

LATE_COMMIT_SECONDS = 2.0
"""An id older than this is committed or never will be: cursors stay behind it."""


class Claiming:
    """Plans, asks the backend how many calls of each model may start, and claims so many."""

    def __init__(self, run: UUID, backend: Backend, scheduler: Scheduler, routes: Map) -> None:
        self.pause_seconds: float | None = None
        """After which more may be planned than was last, as a model is shut till then; or None."""
        self._run = run
        self._backend = backend
        self._scheduler = scheduler
        self._map = routes
        self._figures = figures_of(backend.name)

    async def claim(self, lane: Lane, *, free: int, in_flight: int) -> list[Claim] | None:
        """Claim up to ``free`` rows; None where nothing is planned.

        Raises StaleRoutesError and DatabaseAway.
        """
        shut = self._backend.shut()
        self.pause_seconds = min(shut.values(), default=None)
        now = datetime.now(UTC)
        picks = self._scheduler.plan(free=free, in_flight=in_flight, now=now, shut=shut)
        if not picks:
            return None
        # The routes may change while the backend is asked; these picks are of those of now.
        version = self._map.version
        wanted = takes(picks)
        granted = await self._backend.admit(wanted)
        claims: list[Claim] = []
        try:
            if granted != wanted:
                picks = self._scheduler.cut(picks, granted)
            if picks:
                claims = await self._claim(lane, version, picks)
        finally:
            await self._give_back(granted, claims)
        return claims

    async def _claim(self, lane: Lane, version: int, picks: Sequence[Pick]) -> list[Claim]:
        before = settled()
        began = time.perf_counter()
        claims = await claim(lane, self._run, version, picks)
        self._figures.claimed(claims, seconds=time.perf_counter() - began)
        self._scheduler.settle(picks, claims, settled=before)
        return claims

    async def _give_back(self, granted: Mapping[str, int], claims: Sequence[Claim]) -> None:
        """Leave to others what was granted and does not start."""
        begun = Counter(claimed.upstream for claimed in claims if not claimed.stopped)
        unused = {name: number - begun[name] for name, number in granted.items()}
        if any(unused.values()):
            await self._backend.unused(unused)


def settled() -> UUID:
    """An id below which no transaction is still to commit."""
    return id_at(datetime.now(UTC) - timedelta(seconds=LATE_COMMIT_SECONDS))
