"""How long a request waits for its next attempt, and how many a long outage costs it."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.errors import PassingError
from carpool.ids import new_id
from db.claim import Claim
from workers.executor import (
    MAX_BACKOFF_SECONDS,
    MAX_LONG_BACKOFF_SECONDS,
    backoff_seconds,
    delay_seconds,
)

DAY_SECONDS = 86_400.0
MOST_ATTEMPTS_A_DAY = 300


def claim(*, attempts: int = 0, left: float | None = None) -> Claim:
    deadline = None if left is None else datetime.now(UTC) + timedelta(seconds=left)
    return Claim(
        id=new_id(),
        epoch=1,
        team_id=1,
        service_class=1,
        endpoint=0,
        model="m",
        streamed=False,
        attempts=attempts,
        lost=0,
        channel=None,
        prefix_key=0,
        share=None,
        rank=0,
        batch_id=None,
        deadline=deadline,
        upstream="m",
        body=b"{}",
        stopped=False,
    )


@given(st.integers(1, 32_767), st.none() | st.floats(0, 30 * DAY_SECONDS))
def test_the_wait_grows_to_a_bound(attempts: int, left: float | None) -> None:
    wait = backoff_seconds(attempts, left=left)
    assert 0.5 <= wait <= (MAX_BACKOFF_SECONDS if left is None else MAX_LONG_BACKOFF_SECONDS)
    if left is not None and left <= 20 * MAX_BACKOFF_SECONDS:
        assert wait <= MAX_BACKOFF_SECONDS


@pytest.mark.parametrize("seed", range(5))
def test_an_outage_of_a_day_costs_no_thousands_of_attempts(seed: int) -> None:
    """After one of some minutes, it waits no longer than twice as long again."""
    random.seed(seed)
    passed, attempts = 0.0, 0
    while True:
        attempts += 1
        wait = backoff_seconds(attempts, left=DAY_SECONDS - passed)
        assert wait <= 2 * passed + 1.0
        if passed + wait >= DAY_SECONDS:
            break
        passed += wait
    assert attempts <= MOST_ATTEMPTS_A_DAY
    assert passed >= DAY_SECONDS - MAX_BACKOFF_SECONDS


def test_what_the_provider_asks_for_is_the_least() -> None:
    asked = PassingError("503", status=503, retry_after_seconds=40.0)
    assert delay_seconds(claim(), asked) == 40.0
    hasty = PassingError("503", status=503, retry_after_seconds=0.01)
    assert delay_seconds(claim(attempts=9), hasty) >= MAX_BACKOFF_SECONDS / 2
    assert delay_seconds(claim(attempts=20, left=DAY_SECONDS), hasty) > MAX_BACKOFF_SECONDS
