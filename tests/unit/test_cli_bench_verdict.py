"""The verdict says yes only where the own model is worse in nothing, and no only with a reason."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.figures import Spread, Summary
from cli.bench.verdict import ERROR_TOLERANCE, LEAST_SAMPLES, TOLERANCE, Answer, verdict, verdicts

TIMES = st.floats(0.001, 100)


def spread(seconds: float) -> Spread:
    return Spread(p50=seconds, p90=seconds, p95=seconds, p99=seconds)


def summary(model: str = "own", **fields: Any) -> Summary:
    usual: dict[str, Any] = {
        "model": model,
        "requests": 100,
        "succeeded": 100,
        "errors": {},
        "seconds": 10,
        "requests_per_second": 10,
        "output_tokens_per_second": 1000,
        "first_token": spread(0.1),
        "token": spread(0.01),
        "latency": spread(1),
        "input_tokens": 1,
        "cached_tokens": 0,
        "output_tokens": 1,
        "dollars": None,
        "simulated": False,
    }
    return Summary(**usual | fields)


OTHER = summary("gpt")


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"first_token": spread(0.25)}, "time to first token (p50) is 2.50 × as long"),
        ({"token": spread(0.012)}, "time per output token (p50) is 1.20 × as long"),
        ({"latency": spread(30)}, "latency (p95) is 30 × as long"),
        ({"output_tokens_per_second": 500}, "output tokens/s are 0.50 × as many"),
        ({"succeeded": 97}, "3.0% of requests fail, against 0.0%"),
    ],
)
def test_to_be_worse_in_one_thing_is_to_fall_behind(worse: dict[str, Any], reason: str) -> None:
    found = verdict(summary(**worse), OTHER)
    assert found.answer is Answer.FALLS_BEHIND
    assert found.reasons == [reason]
    assert found.sentence == f"own does not keep up with gpt: {reason}."


def test_equals_keep_up_and_the_figures_are_told() -> None:
    found = verdict(summary(), OTHER)
    assert found.sentence == (
        "own keeps up with gpt: time to first token (p50) 1.00 ×, time per output token (p50) "
        "1.00 ×, latency (p95) 1.00 ×, output tokens/s 1.00 ×."
    )


@given(TIMES, TIMES)
def test_a_difference_below_the_tolerance_is_none(mine: float, theirs: float) -> None:
    own = summary(latency=spread(mine))
    other = msgspec.structs.replace(OTHER, latency=spread(theirs))
    behind = verdict(own, other).answer is Answer.FALLS_BEHIND
    assert behind == (mine / theirs > 1 + TOLERANCE)


@given(st.integers(LEAST_SAMPLES, 100), st.integers(LEAST_SAMPLES, 100))
def test_no_two_models_fall_behind_each_other_by_errors(mine: int, theirs: int) -> None:
    own, other = summary(succeeded=mine), msgspec.structs.replace(OTHER, succeeded=theirs)
    answers = [verdict(own, other).answer, verdict(other, own).answer]
    assert answers.count(Answer.FALLS_BEHIND) == (abs(mine - theirs) > 100 * ERROR_TOLERANCE)


def test_too_few_samples_tell_nothing() -> None:
    found = verdict(summary(succeeded=LEAST_SAMPLES - 1), OTHER)
    assert found.sentence == (
        "own cannot be compared with gpt: fewer than 20 requests succeeded (own)."
    )


def test_what_is_unknown_is_not_compared() -> None:
    own = summary(token=None, output_tokens_per_second=None)
    assert verdict(own, OTHER).reasons == [
        "time to first token (p50) 1.00 ×",
        "latency (p95) 1.00 ×",
    ]
    nothing = summary(first_token=spread(0), latency=spread(0), token=None)
    assert verdict(summary(), nothing).answer is Answer.KEEPS_UP


def test_the_first_is_held_against_each_other_one() -> None:
    found = verdicts([summary("a"), summary("b"), summary("c", first_token=spread(0.01))])
    assert [(one.model, one.other, one.answer) for one in found] == [
        ("a", "b", Answer.KEEPS_UP),
        ("a", "c", Answer.FALLS_BEHIND),
    ]
