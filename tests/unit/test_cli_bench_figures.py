"""Figures follow from the samples alone, and none of them is made up."""

import statistics
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.prices import Price
from cli.bench.figures import (
    Spread,
    busy_seconds,
    distribution,
    percentile,
    spread,
    summary,
)
from cli.bench.sample import Sample

SECONDS = st.floats(0, 1e4, allow_subnormal=False)
VALUES = st.lists(SECONDS, min_size=1, max_size=80)
PERCENTS = st.floats(0, 100)


def sample(**fields: Any) -> Sample:
    usual: dict[str, Any] = {
        "model": "a",
        "block": 0,
        "began": 0.0,
        "seconds": 2.0,
        "first_token_seconds": 0.5,
        "last_token_seconds": 2.0,
        "input_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 4,
    }
    return Sample(**usual | fields)


PRICE = Price(input=Decimal(1), cached=Decimal("0.5"), written=Decimal(1), output=Decimal(5))


def broken(code: str, **fields: Any) -> Sample:
    return sample(error=code, input_tokens=None, cached_tokens=None, output_tokens=None, **fields)


@given(st.lists(SECONDS, min_size=2, max_size=80))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    """statistics.quantiles, inclusive, is type 7 too."""
    expected = statistics.quantiles(values, n=100, method="inclusive")
    found = spread(values)
    assert found is not None
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(
        [expected[place - 1] for place in (50, 90, 95, 99)]
    )


@given(VALUES, PERCENTS, PERCENTS)
def test_a_greater_percentile_is_no_smaller_and_none_leaves_the_values(
    values: list[float], one: float, other: float
) -> None:
    ascending = sorted(values)
    low, high = sorted((one, other))
    found = percentile(ascending, low), percentile(ascending, high)
    assert ascending[0] <= found[0]
    assert found[0] <= found[1] or found[0] == pytest.approx(found[1])
    assert found[1] <= ascending[-1]
    assert (percentile(ascending, 0), percentile(ascending, 100)) == (ascending[0], ascending[-1])


@given(VALUES, st.randoms(use_true_random=False), st.sampled_from([0.25, 2.0, 1024.0]))
def test_percentiles_know_neither_order_nor_unit(
    values: list[float], random: Any, factor: float
) -> None:
    mixed = [value * factor for value in values]
    random.shuffle(mixed)
    before, after = spread(values), spread(mixed)
    assert before is not None
    assert after is not None
    assert after.p95 == pytest.approx(before.p95 * factor)


def test_what_never_came_is_no_number() -> None:
    assert spread([]) is None
    assert spread([None, None]) is None
    assert spread([None, 3.0]) == Spread(p50=3, p90=3, p95=3, p99=3)


@given(VALUES, st.integers(1, 100))
def test_a_distribution_rises_to_the_whole(values: list[float], most: int) -> None:
    """Each step says truly how many of the values are no greater, but for equals that follow."""
    steps = distribution(values, most)
    assert len(steps) == min(len(values), most)
    assert steps == sorted(steps)
    assert steps[-1] == (max(values), 1)
    for value, share in steps:
        below = sum(other < value for other in values)
        assert below < round(share * len(values)) <= sum(other <= value for other in values)


def test_an_empty_distribution_has_no_step() -> None:
    assert distribution([]) == []


def test_time_counts_only_while_the_model_runs() -> None:
    """Between its blocks another model ran."""
    samples = [
        sample(block=3, began=100, seconds=1),
        sample(block=0, began=0, seconds=2),
        sample(block=0, began=1, seconds=4),
        sample(block=3, began=101, seconds=0.5),
    ]
    assert busy_seconds(samples) == 5 + 1.5
    assert busy_seconds([]) == 0


def test_the_first_token_is_not_among_those_whose_pace_is_told() -> None:
    assert sample().token_seconds == 0.5
    assert sample(output_tokens=1).token_seconds is None
    assert sample(output_tokens=None).token_seconds is None
    assert sample(first_token_seconds=None).token_seconds is None
    assert sample(output_tokens=54, hidden_tokens=50).token_seconds == 0.5


def test_a_summary_of_successes_and_failures() -> None:
    samples = [
        sample(),
        sample(began=2, seconds=6),
        broken("429 rate_limit_exceeded", began=3, seconds=0.01),
        broken("timeout", began=3, seconds=0.01),
        broken("429 rate_limit_exceeded", began=3, seconds=0.01),
    ]
    found = summary("a", samples, PRICE)
    assert (found.requests, found.succeeded, found.failed, found.error_rate) == (5, 2, 3, 0.6)
    assert list(found.errors.items()) == [("429 rate_limit_exceeded", 2), ("timeout", 1)]
    assert found.seconds == 8
    assert found.requests_per_second == 2 / 8
    assert found.output_tokens_per_second == 8 / 8
    assert found.latency == Spread(p50=4, p90=5.6, p95=5.8, p99=5.96)
    assert (found.input_tokens, found.cached_tokens, found.output_tokens) == (20, 8, 8)
    assert found.dollars == pytest.approx((12 * 1 + 8 * 0.5 + 8 * 5) / 1_000_000)


def test_long_requests_are_priced_one_by_one() -> None:
    """COMPAT section 5: only the request that is too long costs more."""
    long = Price(
        input=Decimal(1),
        cached=Decimal(1),
        written=Decimal(1),
        output=Decimal(1),
        long_tokens=100,
        long_input=Decimal(2),
    )
    samples = [
        sample(input_tokens=100, cached_tokens=0, output_tokens=1),
        sample(input_tokens=101, cached_tokens=0, output_tokens=1),
    ]
    assert summary("a", samples, long).dollars == pytest.approx((100 + 2 * 101 + 2) / 1_000_000)


def test_what_is_not_told_stays_unknown() -> None:
    """One answer without usage, and the sums would be too small."""
    found = summary("a", [sample(), sample(output_tokens=None, cached_tokens=None)], PRICE)
    assert found.input_tokens == 20
    assert found.cached_tokens is None
    assert found.output_tokens is None
    assert found.output_tokens_per_second is None
    assert found.dollars is None
    assert summary("a", [sample()], None).dollars is None


def test_a_summary_of_nothing() -> None:
    found = summary("a", [], PRICE)
    assert (found.requests, found.error_rate, found.requests_per_second) == (0, None, None)
    assert (found.latency, found.output_tokens, found.dollars) == (None, None, None)
    failed = summary("a", [broken("connection", seconds=0)], PRICE)
    assert (failed.error_rate, failed.requests_per_second, failed.dollars) == (1, None, None)
