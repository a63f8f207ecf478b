"""How many calls a provider is given at once: what it bears is found by trying.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP's congestion avoidance:
the limit grows by about one for each round of calls that all succeed, and is halved where the
provider shows strain. Rate limits are of a model, and what they say is held against that alone.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial


class Concurrency:
    """The limit of calls in flight, between 1 and ``maximum``; moments are in any one clock."""

    def __init__(self, maximum: int, *, start: int | None = None) -> None:
        self._maximum = float(maximum)
        self._limit = min(self._maximum, max(1.0, float(maximum if start is None else start)))
        self._cut_at = float("-inf")

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""
        return int(self._limit)

    def succeeded(self, in_flight: int) -> None:
        """Grow by one for each ``limit`` successes, if so many calls in flight prove anything."""
        if 2 * in_flight >= self.limit:
            self._limit = min(self._maximum, self._limit + 1 / self._limit)

    def strained(self, *, began: float, now: float) -> None:
        """Halve, unless the call began before the last cut, and so says nothing of it."""
        if began >= self._cut_at:
            self._limit = max(1.0, self._limit / 2)
            self._cut_at = now


class Places:
    """The calls in flight at one provider, and how many more of each of its models may be."""

    def __init__(self, maximum: int) -> None:
        self._all = Concurrency(maximum)
        self._each: defaultdict[str, Concurrency] = defaultdict(partial(Concurrency, maximum))
        self._taken: Counter[str] = Counter()

    @property
    def limit(self) -> int:
        """How many calls may be in flight now, of all models together."""
        return self._all.limit

    def taken(self, model: str) -> int:
        """How many calls of a model are in flight."""
        return self._taken[model]

    def free(self, model: str) -> int:
        """How many more of a model may be, as far as its own limit goes."""
        return max(0, self._each[model].limit - self._taken[model])

    def full(self) -> Collection[str]:
        """The models of which no more may be."""
        return [model for model in self._taken if not self.free(model)]

    @contextmanager
    def take(self, model: str) -> Iterator[None]:
        """A call is in flight within this."""
        self._taken[model] += 1
        try:
            yield
        finally:
            self._taken[model] -= 1

    def succeeded(self, model: str) -> None:
        """A call was answered, and is in flight still."""
        self._all.succeeded(self._taken.total())
        self._each[model].succeeded(self._taken[model])

    def strained(self, *, began: float, now: float) -> None:
        """The provider shows strain, whatever the model."""
        self._all.strained(began=began, now=now)

    def limited(self, model: str, *, began: float, now: float) -> None:
        """A call met the rate limit of its model."""
        self._each[model].strained(began=began, now=now)
