"""Rate limits: a bucket of requests and one of tokens for each model, filled by the clock."""

import math
from dataclasses import dataclass

from tests.double.clock import Clock
from tests.double.refusals import Refused
from tests.double.settings import Settings

UNLIMITED = 1_000_000_000
"""What the headers say where no limit is set."""
WINDOW_SECONDS = 60


@dataclass
class _Bucket:
    limit: int
    level: float
    at: float

    def fill(self, now: float) -> None:
        grown = self.level + (now - self.at) * self.limit / WINDOW_SECONDS
        self.level, self.at = min(self.limit, grown), now

    def seconds_to(self, level: float) -> float:
        return max(0.0, (level - self.level) * WINDOW_SECONDS / self.limit)


class Limits:
    """Charged by every live call that was understood."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def refill(self) -> None:
        """All buckets are full again, and of the size that the settings say."""
        self._buckets.clear()

    def charge(self, settings: Settings, model: str, tokens: int) -> dict[str, str]:
        """The headers of an answer; raises `Refused` 429 and charges nothing if it is too much."""
        requests = settings.requests_per_minute_of.get(model, settings.requests_per_minute)
        buckets = {
            "requests": self._bucket(model, "requests", requests),
            "tokens": self._bucket(model, "tokens", settings.tokens_per_minute),
        }
        costs = {"requests": 1, "tokens": tokens}
        for kind, bucket in buckets.items():
            if bucket.level < costs[kind]:
                raise _refusal(kind, model, bucket, costs[kind], _headers(buckets))
        for kind, bucket in buckets.items():
            bucket.level -= costs[kind]
        return _headers(buckets)

    def _bucket(self, model: str, kind: str, limit: int | None) -> _Bucket:
        now = self._clock.now()
        size = UNLIMITED if limit is None else limit
        bucket = self._buckets.setdefault((model, kind), _Bucket(size, size, now))
        bucket.fill(now)
        return bucket


def _refusal(kind: str, model: str, bucket: _Bucket, cost: int, headers: dict[str, str]) -> Refused:
    if cost > bucket.limit:
        text = (
            f"Request too large for {model} on {kind} per min: "
            f"Limit {bucket.limit}, Requested {cost}."
        )
        return Refused(text, status=429, code="rate_limit_exceeded", kind=kind, headers=headers)
    wait = bucket.seconds_to(cost)
    headers |= {
        "retry-after": str(math.ceil(wait)),
        "retry-after-ms": str(math.ceil(wait * 1000)),
    }
    text = (
        f"Rate limit reached for {model} on {kind} per min: Limit {bucket.limit}, "
        f"Requested {cost}. Please try again in {_duration(wait)}."
    )
    return Refused(text, status=429, code="rate_limit_exceeded", kind=kind, headers=headers)


def _headers(buckets: dict[str, _Bucket]) -> dict[str, str]:
    made = {}
    for kind, bucket in buckets.items():
        made[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
        made[f"x-ratelimit-remaining-{kind}"] = str(int(bucket.level))
        made[f"x-ratelimit-reset-{kind}"] = _duration(bucket.seconds_to(bucket.limit))
    return made


def _duration(seconds: float) -> str:
    """As OpenAI writes it: ``12ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
