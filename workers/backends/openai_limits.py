"""What a provider's headers say of its limits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from db.rate_limits import Level, Observation
from workers.backends.openai_errors import retry_after

UNSAID_PAUSE_SECONDS = 1.0
"""After a 429 that names no time."""
LONGEST_PAUSE_SECONDS = 600.0
"""However long a provider asks us to wait, we look again after so much."""

_UNITS = {
    "d": 86_400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_PART = re.compile(r"(\d{1,15}(?:\.\d{0,15})?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{0,15})?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimits:
    """The limits that headers name, and the seconds until each bucket is full again."""

    observation: Observation
    requests_reset_seconds: float | None = None
    tokens_reset_seconds: float | None = None
    retry_after_seconds: float | None = None

    @property
    def pause_seconds(self) -> float:
        """How long a 429 with these headers holds a model, for all workers of a backend."""
        asked = self.retry_after_seconds
        if asked is None:
            asked = min((*self._empty(), UNSAID_PAUSE_SECONDS))
        return min(asked, LONGEST_PAUSE_SECONDS)

    def _empty(self) -> list[float]:
        """The resets of the buckets in which not one call's worth is left."""
        resets = (
            (self.observation.requests, self.requests_reset_seconds),
            (self.observation.tokens, self.tokens_reset_seconds),
        )
        return [reset for level, reset in resets if level and level.left < 1 and reset is not None]


def read(headers: Mapping[str, str]) -> RateLimits:
    """Read ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` and ``retry-after(-ms)``.

    What is missing or makes no sense is None; it never raises.
    """
    return RateLimits(
        observation=Observation(
            requests=_level(headers, "requests"), tokens=_level(headers, "tokens")
        ),
        requests_reset_seconds=duration_seconds(headers.get("x-ratelimit-reset-requests")),
        tokens_reset_seconds=duration_seconds(headers.get("x-ratelimit-reset-tokens")),
        retry_after_seconds=retry_after(headers),
    )


def duration_seconds(text: str | None) -> float | None:
    """Seconds of Go's durations, which OpenAI writes (``6m0s``, ``250ms``), or of a bare number."""
    text = (text or "").strip()
    number = _number(text)
    if number is not None:
        return number
    parts = _PART.findall(text)
    if not parts or "".join(value + unit for value, unit in parts) != text:
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in parts)


def _level(headers: Mapping[str, str], kind: str) -> Level | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
    left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
    if limit is None or left is None or limit <= 0:
        return None
    return Level(limit, min(left, limit))


def _number(text: str | None) -> float | None:
    text = (text or "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None
