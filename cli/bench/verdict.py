"""Whether the first model keeps up with the others, in one sentence each."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from cli.bench.figures import Spread, Summary

TOLERANCE = 0.10
"""A difference below it counts as none: a repeated benchmark differs by as much."""
ERROR_TOLERANCE = 0.01
"""Of the share of requests that fail."""
LEAST_SAMPLES = 20
"""Successes of a model below which its percentiles tell little."""


class Answer(StrEnum):
    KEEPS_UP = "keeps up with"
    FALLS_BEHIND = "does not keep up with"
    UNKNOWN = "cannot be compared with"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model against another."""

    model: str
    other: str
    answer: Answer
    reasons: list[str]

    @property
    def sentence(self) -> str:
        """As it is shown."""
        why = f": {', '.join(self.reasons)}" if self.reasons else ""
        return f"{self.model} {self.answer} {self.other}{why}."


def verdicts(summaries: Sequence[Summary]) -> list[Verdict]:
    """Of the first against each of the others."""
    own, *others = summaries
    return [verdict(own, other) for other in others]


def verdict(own: Summary, other: Summary) -> Verdict:
    """Of ``own`` against ``other``: it keeps up where it is worse in nothing."""
    few = [s.model for s in (own, other) if s.succeeded < LEAST_SAMPLES]
    if few:
        answer = Answer.UNKNOWN
        reasons = [f"fewer than {LEAST_SAMPLES} requests succeeded ({', '.join(few)})"]
    elif worse := list(_worse(own, other)):
        answer, reasons = Answer.FALLS_BEHIND, worse
    else:
        answer, reasons = Answer.KEEPS_UP, list(_compared(own, other))
    return Verdict(model=own.model, other=other.model, answer=answer, reasons=reasons)


def _worse(own: Summary, other: Summary) -> Iterator[str]:
    for name, ratio in _slowdowns(own, other):
        if ratio > 1 + TOLERANCE:
            yield f"{name} is {_times(ratio)} as long"
    many = _throughput(own, other)
    if many is not None and many < 1 / (1 + TOLERANCE):
        yield f"output tokens/s are {_times(many)} as many"
    if (own.error_rate or 0) > (other.error_rate or 0) + ERROR_TOLERANCE:
        yield f"{own.error_rate:.1%} of requests fail, against {other.error_rate or 0:.1%}"


def _compared(own: Summary, other: Summary) -> Iterator[str]:
    for name, ratio in _slowdowns(own, other):
        yield f"{name} {_times(ratio)}"
    many = _throughput(own, other)
    if many is not None:
        yield f"output tokens/s {_times(many)}"


def _slowdowns(own: Summary, other: Summary) -> Iterator[tuple[str, float]]:
    """How many times as long it takes."""
    pairs: tuple[tuple[str, Spread | None, Spread | None], ...] = (
        ("time to first token", own.first_token, other.first_token),
        ("time per output token", own.token, other.token),
    )
    for name, mine, theirs in pairs:
        if mine is not None and theirs is not None and theirs.p50 > 0:
            yield f"{name} (p50)", mine.p50 / theirs.p50
    if own.latency is not None and other.latency is not None and other.latency.p95 > 0:
        yield "latency (p95)", own.latency.p95 / other.latency.p95


def _throughput(own: Summary, other: Summary) -> float | None:
    if own.output_tokens_per_second is None or not other.output_tokens_per_second:
        return None
    return own.output_tokens_per_second / other.output_tokens_per_second


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:,.0f} ×"
