"""What a provider's headers say of its limits is read exactly, and nonsense is nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.rate_limits import Level, Observation
from workers.backends.openai_limits import (
    LONGEST_PAUSE_SECONDS,
    UNSAID_PAUSE_SECONDS,
    duration_seconds,
    read,
)

NAMES = [
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
    "retry-after",
    "retry-after-ms",
]
OPENAIS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("250ms", 0.25),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800),
        ("12.5µs", 12.5e-6),
        ("0s", 0),
        ("30", 30),
        ("", None),
        (None, None),
        ("-1s", None),
        ("1s2", None),
        ("soon", None),
        ("1e3s", None),
        ("inf", None),
    ],
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


def test_the_headers_that_openai_documents() -> None:
    limits = read(OPENAIS)
    assert limits.observation == Observation(requests=Level(60, 59), tokens=Level(150_000, 149_984))
    assert (limits.requests_reset_seconds, limits.tokens_reset_seconds) == (1, 360)
    assert limits.retry_after_seconds is None


@given(
    hours=st.integers(0, 99),
    minutes=st.integers(0, 59),
    milliseconds=st.integers(0, 59_999),
)
def test_every_duration_that_go_writes_is_read(hours: int, minutes: int, milliseconds: int) -> None:
    expected = hours * 3600 + minutes * 60 + milliseconds / 1000
    assert duration_seconds(_as_go(hours, minutes, milliseconds)) == pytest.approx(expected)


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.from_regex(r"-?\d*\.?\d*(ms|s)?")))
def test_whatever_the_headers_hold_a_level_is_within_its_limit(headers: dict[str, str]) -> None:
    limits = read(headers)
    for level in (limits.observation.requests, limits.observation.tokens):
        assert level is None or 0 <= level.left <= level.limit > 0
    for reset in (limits.requests_reset_seconds, limits.tokens_reset_seconds):
        assert reset is None or reset >= 0
    assert 0 <= limits.pause_seconds <= LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "retry-after-ms": "6500"}, 6.5),
        ({"retry-after": "86400"}, LONGEST_PAUSE_SECONDS),
        ({}, UNSAID_PAUSE_SECONDS),
        (OPENAIS, UNSAID_PAUSE_SECONDS),
        (
            OPENAIS
            | {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"},
            0.12,
        ),
    ],
)
def test_a_429_pauses_for_what_it_asks(headers: dict[str, str], seconds: float) -> None:
    assert read(headers).pause_seconds == seconds


@given(
    limit=st.floats(1, 1e9),
    share=st.floats(0, 1),
    first=st.floats(0, 1000),
    second=st.floats(0, 1000),
)
def test_a_bucket_refills_the_same_in_one_step_or_in_two(
    limit: float, share: float, first: float, second: float
) -> None:
    level = Level(limit, limit * share)
    stepwise = level.after(first).after(second)
    assert stepwise.left == pytest.approx(level.after(first + second).left, rel=1e-6)
    assert level.left <= stepwise.left <= limit
    assert level.after(60).left == pytest.approx(limit)


@given(st.lists(st.floats(0, 100), min_size=1), st.randoms())
def test_answers_that_overtake_each_other_leave_the_lowest_level(
    levels: list[float], chance: random.Random
) -> None:
    observations = [Observation(requests=Level(100, left)) for left in levels]
    chance.shuffle(observations)
    joined = Observation(tokens=Level(10, 5))
    for observation in observations:
        joined = joined.joined(observation)
    assert joined == Observation(requests=Level(100, min(levels)), tokens=Level(10, 5))


def _as_go(hours: int, minutes: int, milliseconds: int) -> str:
    """As Go's ``time.Duration.String`` writes it."""
    seconds = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    if minutes:
        return f"{minutes}m{seconds}s"
    return f"{milliseconds}ms" if milliseconds < 1000 else f"{seconds}s"
