"""The limit of enqueued tokens is the operator's, until the provider refuses what keeps it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.provider_batches import Refusal
from workers.provider_batches.token_limit import DOUBLES_SECONDS, bound

STATED = "token_limit_exceeded: Enqueued token limit reached. Limit: 1,000 enqueued tokens."
UNSTATED = "token_limit_exceeded: Enqueued token limit reached."
COUNTS = st.integers(min_value=1, max_value=10**12)


@pytest.mark.parametrize("configured", [None, 500])
def test_without_a_refusal_it_is_what_is_configured(configured: int | None) -> None:
    assert bound(configured, None) == configured


@pytest.mark.parametrize(
    ("configured", "error", "tokens", "learned"),
    [
        (None, STATED, 5000, 1000),
        (400, STATED, 5000, 400),
        (2000, STATED, 5000, 1000),
        (None, STATED, 900, 450),  # by our estimate it was kept
        (None, UNSTATED, 900, 450),
        (100, UNSTATED, 900, 100),
        (None, UNSTATED, 1, 1),
    ],
)
def test_it_is_what_the_provider_states_or_half_of_what_it_refused(
    configured: int | None, error: str, tokens: int, learned: int
) -> None:
    assert bound(configured, Refusal(error, 0.0, tokens)) == learned


@given(COUNTS, st.integers(min_value=1, max_value=10**12))
def test_refusals_in_a_row_come_down_to_any_limit(limit: int, asked: int) -> None:
    """Soon, and whatever the estimate is worth."""
    refusals = 0
    while asked > limit:
        learned = bound(None, Refusal(UNSTATED, 0.0, asked))
        assert learned is not None
        asked = learned
        refusals += 1
    assert refusals <= 40


def test_a_guess_grows_again_but_never_over_what_is_stated() -> None:
    later = 3 * DOUBLES_SECONDS
    assert bound(None, Refusal(UNSTATED, later, 900)) == 8 * 450
    assert bound(None, Refusal(STATED, later, 900)) == 1000
