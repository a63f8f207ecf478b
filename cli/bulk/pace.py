"""How fast it goes, and how long it will take."""

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
"""The rate is that of the last minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Of all requests of a submission."""

    total: int
    done: int
    """Failed ones among them."""
    failed: int


class Pace:
    """Remembers how many were done when."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, seconds: float, done: int) -> None:
        """``seconds`` by any clock that only goes forward."""
        self._seen.append((seconds, done))
        while len(self._seen) > 2 and self._seen[1][0] <= seconds - WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Requests a second; None where it cannot be told yet."""
        if not self._seen:
            return None
        (begin, before), (end, now) = self._seen[0], self._seen[-1]
        return (now - before) / (end - begin) if end > begin and now > before else None

    def seconds_left(self, counts: Counts) -> float | None:
        """None where it cannot be told."""
        rate = self.rate
        return None if rate is None else (counts.total - counts.done) / rate


def described(counts: Counts, pace: Pace) -> str:
    """In one line."""
    words = [f"{counts.done:,} of {counts.total:,} done", f"{counts.failed:,} failed"]
    left = pace.seconds_left(counts)
    if pace.rate is not None and left is not None and counts.done < counts.total:
        words += [f"{pace.rate:,.1f}/s", f"about {duration(left)} left"]
    return ", ".join(words)


def duration(seconds: float) -> str:
    """To two units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
