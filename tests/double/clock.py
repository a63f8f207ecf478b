"""The double's time."""

import time


class Clock:
    """Seconds since the epoch; starts at the real time, and then stands still."""

    def __init__(self) -> None:
        self._at = float(int(time.time()))
        self._since = 0.0
        self._factor = 0.0

    def now(self) -> float:
        if not self._factor:
            return self._at
        return self._at + (time.monotonic() - self._since) * self._factor

    def advance(self, seconds: float) -> None:
        self._at += seconds

    def auto(self, factor: float) -> None:
        """Run so many times as fast as the real time; 0 stands still."""
        self._at = self.now()
        self._since = time.monotonic()
        self._factor = factor
