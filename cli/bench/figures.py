"""Samples become figures. Nothing here reads a clock, a file or a network."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from carpool.prices import NANODOLLARS, Price, Usage, cost
from cli.bench.sample import Sample

MOST_STEPS = 500
"""Of a distribution: as many as a plot can show."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of a time, in seconds."""

    p50: float
    p90: float
    p95: float
    p99: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How one model did; None is what cannot be told. Times are those of what succeeded."""

    model: str
    requests: int
    succeeded: int
    errors: dict[str, int]
    """By code, most frequent first."""
    seconds: float
    """In which this model's requests ran, and no other's."""
    requests_per_second: float | None
    output_tokens_per_second: float | None
    first_token: Spread | None
    token: Spread | None
    """For each output token after the first."""
    latency: Spread | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    dollars: float | None
    simulated: bool

    @property
    def failed(self) -> int:
        return self.requests - self.succeeded

    @property
    def error_rate(self) -> float | None:
        """From 0 to 1."""
        return self.failed / self.requests if self.requests else None


def summary(model: str, samples: Iterable[Sample], price: Price | None) -> Summary:
    """The figures of one model, whose samples these are."""
    taken = list(samples)
    well = [sample for sample in taken if sample.error is None]
    seconds = busy_seconds(taken)
    tokens_in = _sum(sample.input_tokens for sample in well)
    cached = _sum(sample.cached_tokens for sample in well)
    tokens_out = _sum(sample.output_tokens for sample in well)
    return Summary(
        model=model,
        requests=len(taken),
        succeeded=len(well),
        errors=dict(Counter(s.error for s in taken if s.error is not None).most_common()),
        seconds=seconds,
        requests_per_second=_rate(len(well), seconds),
        output_tokens_per_second=_rate(tokens_out, seconds),
        first_token=spread(sample.first_token_seconds for sample in well),
        token=spread(sample.token_seconds for sample in well),
        latency=spread(sample.seconds for sample in well),
        input_tokens=tokens_in,
        cached_tokens=cached,
        output_tokens=tokens_out,
        dollars=None if price is None else _dollars(well, price),
        simulated=any(sample.simulated for sample in taken),
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are known; None where there is none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Spread(
        p50=percentile(known, 50),
        p90=percentile(known, 90),
        p95=percentile(known, 95),
        p99=percentile(known, 99),
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Between the two nearest values, linearly: type 7 of Hyndman and Fan (1996)."""
    place = (len(ascending) - 1) * percent / 100
    below = math.floor(place)
    low, high = ascending[below], ascending[min(below + 1, len(ascending) - 1)]
    return min(low + (high - low) * (place - below), high)


def distribution(values: Iterable[float], most: int = MOST_STEPS) -> list[tuple[float, float]]:
    """Steps of the empirical distribution: a value, and the share (0 to 1) that is no greater.

    Of many values evenly chosen ones, the greatest among them.
    """
    ascending = sorted(values)
    count = len(ascending)
    steps = min(count, most)
    ranks = [-(-count * step // steps) for step in range(1, steps + 1)]
    return [(ascending[rank - 1], rank / count) for rank in ranks]


def busy_seconds(samples: Iterable[Sample]) -> float:
    """The lengths of the blocks together, each from its first begin to its last end."""
    spans: dict[int, tuple[float, float]] = {}
    for sample in sorted(samples, key=attrgetter("began")):
        begin, end = spans.get(sample.block, (sample.began, sample.began))
        spans[sample.block] = begin, max(end, sample.began + sample.seconds)
    return sum(end - begin for begin, end in spans.values())


def _dollars(samples: Iterable[Sample], price: Price) -> float | None:
    """The live price of all of them; None where one does not tell its tokens, or there is none."""
    nanodollars = []
    for sample in samples:
        if sample.input_tokens is None or sample.output_tokens is None:
            return None
        usage = Usage(
            prompt=sample.input_tokens,
            cached=sample.cached_tokens or 0,
            completion=sample.output_tokens,
        )
        nanodollars.append(cost(usage, price).paid)
    return sum(nanodollars) / NANODOLLARS if nanodollars else None


def _rate(count: int | None, seconds: float) -> float | None:
    return None if count is None or seconds <= 0 else count / seconds


def _sum(values: Iterable[int | None]) -> int | None:
    """None where one of them is unknown, or there is none."""
    known = list(values)
    return None if None in known or not known else sum(v for v in known if v is not None)
