"""How many calls a provider is given at once: what it bears is found by trying.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP's congestion avoidance:
the limit grows by about one for each round of calls that all succeed, and is halved where the
provider shows strain.
"""


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
