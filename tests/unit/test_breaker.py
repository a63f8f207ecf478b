"""A backend that only fails is left alone, probed by one call at a time, and taken back at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.errors import PassingError
from workers.breaker import Breaker, is_backends


def _opened(failures: int = 3) -> Breaker:
    breaker = Breaker(failures=failures, pause_seconds=1, longest_pause_seconds=8)
    for _ in range(failures):
        assert not breaker.is_open
        breaker.failed(0.0)
    assert breaker.is_open
    return breaker


def test_closed_it_sets_no_limit() -> None:
    breaker = Breaker(failures=3)
    for now in range(100):
        breaker.started(now)
        breaker.failed(now)
        breaker.failed(now)
        breaker.succeeded()
        assert (breaker.is_open, breaker.allows(now)) == (False, None)


def test_after_so_many_failures_in_a_row_nothing_starts_until_the_pause_is_over() -> None:
    breaker = _opened()
    assert [breaker.allows(now) for now in (0.0, 0.99, 1.0)] == [0, 0, 1]
    assert breaker.probe_at == 1.0


def test_one_call_probes_and_its_success_closes() -> None:
    breaker = _opened()
    breaker.started(1.0)
    assert breaker.allows(1.5) == 0
    breaker.succeeded()
    assert (breaker.is_open, breaker.allows(1.5)) == (False, None)
    breaker.failed(1.6)
    assert not breaker.is_open


def test_each_failed_probe_doubles_the_pause_up_to_a_limit() -> None:
    breaker = _opened()
    pauses = []
    for _ in range(6):
        now = breaker.probe_at
        breaker.started(now)
        breaker.failed(now)
        pauses.append(breaker.probe_at - now)
    assert pauses == [2, 4, 8, 8, 8, 8]


def test_calls_from_before_it_opened_do_not_lengthen_the_pause() -> None:
    breaker = _opened()
    for _ in range(100):
        breaker.failed(0.5)
    assert breaker.allows(1.0) == 1


def test_a_probe_that_tells_nothing_is_followed_by_another() -> None:
    """It was cancelled, or hangs."""
    breaker = _opened()
    breaker.started(1.0)
    assert [breaker.allows(now) for now in (1.5, 2.0)] == [0, 1]


def test_after_it_closed_the_first_pause_is_short_again() -> None:
    breaker = _opened(1)
    for now in (1.0, 3.0):
        breaker.started(now)
        breaker.failed(now)
    breaker.succeeded()
    breaker.failed(10.0)
    assert breaker.probe_at == 11.0


@given(
    st.lists(st.tuples(st.floats(0, 20), st.sampled_from(("failed", "succeeded", "start")))),
    st.integers(1, 5),
)
def test_it_never_shuts_for_good_and_never_lets_a_crowd_probe(
    events: list[tuple[float, str]], failures: int
) -> None:
    breaker = Breaker(failures=failures, pause_seconds=1, longest_pause_seconds=8)
    now = 0.0
    for passed, event in events:
        now += passed
        if event == "start" and breaker.allows(now) != 0:
            breaker.started(now)
            assert breaker.allows(now) in (0, None)
        elif event == "failed":
            breaker.failed(now)
        elif event == "succeeded":
            breaker.succeeded()
            assert breaker.allows(now) is None
        assert (breaker.allows(now) is None) != breaker.is_open
        assert breaker.allows(now + 8) != 0


@pytest.mark.parametrize(
    ("status", "backends"),
    [(500, True), (502, True), (503, True), (504, True), (408, False), (409, False), (429, False)],
)
def test_what_is_the_backends_fault(status: int, backends: bool) -> None:
    assert is_backends(PassingError("no", status=status)) is backends
