"""A circuit breaker: a backend that only fails is left alone for a while, then probed.

Closed, it lets everything through. After ``failures`` in a row it is open and lets nothing through
until a pause is over; then one call may probe. A success closes it; a failure of the probe opens it
for twice the pause, up to a limit.
"""

from carpool.errors import PassingError

FAILURES = 5
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


def is_backends(error: PassingError) -> bool:
    """Whether a failure is the backend's own: no connection, no answer in time, or a 5xx."""
    return error.status >= 500


class Breaker:
    """The breaker of one run; moments are in any one clock, in seconds."""

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        pause_seconds: float = PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._most = failures
        self._first_pause = pause_seconds
        self._longest_pause = longest_pause_seconds
        self._failed = 0
        self._pause = 0.0
        self._probe_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the backend is given up for now; it is until a call succeeds."""
        return self._pause > 0

    @property
    def probe_at(self) -> float:
        """While it is open: the moment from which one call may probe."""
        return self._probe_at

    def allows(self, now: float) -> int | None:
        """How many calls may start: None sets no limit. One that does is told to `started`."""
        if not self.is_open:
            return None
        return 1 if now >= self._probe_at else 0

    def started(self, now: float) -> None:
        """A call has started; of an open breaker it is the probe.

        One that tells nothing, for it was cancelled or hangs, has another follow after the pause.
        """
        if self.is_open:
            self._probing = True
            self._probe_at = now + self._pause

    def failed(self, now: float) -> None:
        """A call met a failure that `is_backends`.

        While it is open, those of calls from before say nothing new.
        """
        self._failed += 1
        if not self.is_open:
            if self._failed < self._most:
                return
            self._pause = self._first_pause
        elif self._probing or now >= self._probe_at:
            self._pause = min(self._longest_pause, 2 * self._pause)
        else:
            return
        self._probing = False
        self._probe_at = now + self._pause

    def succeeded(self) -> None:
        """A call was answered; whatever else fails, the backend is there."""
        self._failed = 0
        self._pause = 0.0
        self._probing = False
