"""How deep the queue is: counted in Postgres, and never so often that the counting is felt."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from carpool.ids import milliseconds_of
from carpool.states import ServiceClass
from db.database import Fetches
from db.sql import load

DEPTHS = load("depths")
REST_SHARE: Final = 100
"""A count is taken again after so many times its own duration at the earliest: 1 % of a core."""
RECENT: Final = 3
"""By the quickest of so many counts: one that a busy machine held up says nothing of its cost."""
UNSURE_SECONDS: Final = 1.0
"""How long the first ones, fewer than that, rest at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """How many requests of a model, class and team wait, each for its reason, and run."""

    model: str
    service_class: ServiceClass
    team_id: int
    team: str
    ready: int
    """They may be claimed now."""
    in_flight: int
    backing_off: int
    suspect: int
    following: int
    oldest: UUID | None
    """The first of those that wait."""

    @property
    def waiting(self) -> int:
        """All that do not run."""
        return self.ready + self.backing_off + self.suspect + self.following

    def age_seconds(self, at: float) -> float:
        """How long the first had waited at a moment (Unix seconds); 0 where none waits."""
        return 0.0 if self.oldest is None else _age(self.oldest, at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Depths:
    """All that waits and runs, as counted at one moment."""

    counted_at: datetime
    rows: Sequence[Depth]

    @property
    def waiting(self) -> int:
        return sum(depth.waiting for depth in self.rows)

    @property
    def in_flight(self) -> int:
        return sum(depth.in_flight for depth in self.rows)


def oldest_seconds(rows: Sequence[Depth], at: float) -> float | None:
    """How long the first of all that wait has waited; None where nothing waits."""
    ages = [_age(depth.oldest, at) for depth in rows if depth.oldest is not None]
    return max(ages, default=None)


async def count_depths(database: Fetches) -> Depths:
    """Count now."""
    counted_at = datetime.now(UTC)
    rows = await database.fetch(DEPTHS)
    return Depths(
        counted_at=counted_at,
        rows=[Depth(service_class=ServiceClass(row["class"]), **_columns(row)) for row in rows],
    )


class DepthCounter:
    """Counts when it is asked, unless its last count is to do for a while yet."""

    def __init__(
        self,
        *,
        rest_seconds: float = 0.0,
        rest_share: float = REST_SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest_seconds = rest_seconds
        self._rest_share = rest_share
        self._clock = clock
        self._due = 0.0
        self._took: deque[float] = deque(maxlen=RECENT)
        self._last: Depths | None = None

    @property
    def due(self) -> bool:
        """Whether it would count now."""
        return self._last is None or self._clock() >= self._due

    async def look(self, database: Fetches) -> Depths:
        """The depths now, or those of the last count."""
        if self._last is not None and not self.due:
            return self._last
        began = self._clock()
        self._last = await count_depths(database)
        self._took.append(self._clock() - began)
        rest = self._rest_share * min(self._took)
        if len(self._took) < RECENT:
            rest = min(rest, UNSURE_SECONDS)
        self._due = began + max(self._rest_seconds, rest)
        return self._last


def _columns(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "class"}


def _age(identifier: UUID, at: float) -> float:
    return max(0.0, at - milliseconds_of(identifier) / 1000)
