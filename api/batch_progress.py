"""How fast a batch goes, as one connection sees it."""

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from db.batches import BatchView

WINDOW_SECONDS = 30.0


@dataclass(slots=True)
class Progress:
    """Rate over the last half minute; at first, since the batch began."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def of(self, seen: BatchView) -> dict[str, Any]:
        """``done`` lines, ``rate`` in lines a second, and ``eta_seconds``; None where unknown."""
        done = seen.completed + seen.failed + seen.cancelled + seen.expired
        rate = self._rate(seen, done)
        left = seen.total - done
        return {
            "done": done,
            "rate": None if rate is None else round(rate, 2),
            "eta_seconds": round(left / rate, 1) if rate and seen.total else None,
        }

    def _rate(self, seen: BatchView, done: int) -> float | None:
        now = time.monotonic()
        self._samples.append((now, done))
        while now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()
        began, before = self._samples[0]
        if now - began >= 1:
            return (done - before) / (now - began)
        if seen.in_progress_at is None:
            return None
        seconds = (datetime.now(UTC) - seen.in_progress_at).total_seconds()
        return done / seconds if seconds > 0 else None
