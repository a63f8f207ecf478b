"""The planner is never late where it need not be, never dearer than it must be, and says why."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.provider_batches.planner import (
    ENOUGH_SEEN,
    UNSEEN,
    Option,
    band_of,
    choose,
    fitting,
    options,
    percentile,
    shortest_seconds,
    span_of,
    span_of_band,
)

DAY = 86_400.0
WINDOWS = {"24h": 0.5, "8h": 0.6, "2h": 0.7}
seconds = st.floats(min_value=0, max_value=2 * DAY)
lefts = st.one_of(st.none(), seconds)


@st.composite
def offers(draw: st.DrawFn) -> list[Option]:
    """Some of the windows, with live calls or without, as slow and as dear as it comes."""
    names: list[str | None] = ["24h", "8h", "2h", None]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    tiers = st.sampled_from([0.25, 0.5, 0.6, 0.7, 1.0])
    return [Option(window=name, tier=draw(tiers), seconds=draw(seconds)) for name in chosen]


@given(offers(), lefts)
def test_it_is_not_late_where_any_option_meets_the_deadline(
    offered: Sequence[Option], left: float | None
) -> None:
    choice = choose(offered, left)
    assert choice.option in offered
    if any(option.meets(left) for option in offered):
        assert choice.option.meets(left)


@given(offers(), lefts)
def test_no_option_that_meets_the_deadline_is_cheaper(
    offered: Sequence[Option], left: float | None
) -> None:
    best = choose(offered, left).option
    if best.meets(left):
        assert all(best.tier <= option.tier for option in offered if option.meets(left))


@given(offers(), seconds)
def test_where_nothing_meets_it_the_first_to_be_done_is_taken(
    offered: Sequence[Option], left: float
) -> None:
    if not any(option.meets(left) for option in offered):
        fastest = min(option.seconds for option in offered)
        assert choose(offered, left).option.seconds == fastest


@given(offers(), lefts)
def test_a_span_is_where_its_window_is_the_choice(
    offered: Sequence[Option], left: float | None
) -> None:
    """By it rows are gathered, so it must say the same as the choice for each of them."""
    chosen = choose(offered, left).option.window
    for option in offered:
        if option.window is None:
            continue
        span = span_of(offered, option.window)
        far = float("inf") if left is None else left
        inside = span is not None and span[0] <= far and (span[1] is None or far < span[1])
        assert inside == (chosen == option.window)


@given(offers(), seconds)
def test_below_the_shortest_window_none_meets_a_deadline(
    offered: Sequence[Option], left: float
) -> None:
    meeting = [option for option in offered if option.meets(left) and not option.live]
    assert bool(meeting) == (left >= shortest_seconds(offered))


def test_a_window_seen_too_seldom_is_taken_for_its_length() -> None:
    seen = {"24h": [60.0] * (ENOUGH_SEEN - 1)}
    [window] = options({"24h": 0.5}, seen, overhead_seconds=10, live_seconds=None)
    assert window.seconds == UNSEEN * DAY + 10
    assert window.seen == 0


def test_a_window_that_was_seen_often_is_taken_for_what_it_took_nearly_always() -> None:
    seen = {"24h": [60.0] * 95 + [7200.0] * 5}
    [window] = options({"24h": 0.5}, seen, overhead_seconds=10, live_seconds=None)
    assert window.seconds == 70
    assert window.seen == 100


def test_what_has_less_time_than_live_calls_want_goes_live_however_quick_a_window_is() -> None:
    """In a window it would be taken back at once, and gathered anew, until it is too late."""
    seen = {"2h": [300.0] * ENOUGH_SEEN}
    offered = options(WINDOWS, seen, overhead_seconds=180, live_seconds=900)
    assert [choose(offered, left).option.window for left in (400, 600, 899)] == [None] * 3
    assert choose(offered, 900).option.window == "2h"
    assert span_of(offered, "2h") == (900, UNSEEN * 8 * 3600 + 180)
    alone = options(WINDOWS, seen, overhead_seconds=180, live_seconds=None)
    assert choose(alone, 600).option.window == "2h"


def test_a_batch_of_a_day_that_waited_for_company_still_fits_the_day_s_window() -> None:
    offered = options(WINDOWS, {}, overhead_seconds=180, live_seconds=900)
    assert choose(offered, DAY - 120).option.window == "24h"


@pytest.mark.parametrize(
    ("left", "window"),
    [(None, "24h"), (23 * 3600, "24h"), (12 * 3600, "8h"), (3 * 3600, "2h"), (3600, None)],
)
def test_the_nearer_the_deadline_the_dearer_the_way(left: float | None, window: str | None) -> None:
    offered = options(WINDOWS, {}, overhead_seconds=0, live_seconds=900)
    assert choose(offered, left).option.window == window


@pytest.mark.parametrize(
    ("left", "window"), [(23 * 3600, "24h"), (12 * 3600, None), (3 * 3600, None), (None, "24h")]
)
def test_what_cannot_go_in_the_background_chooses_among_the_others(
    left: float | None, window: str | None
) -> None:
    """The same four ways: of those a request that has no equal as a response has two."""
    background = ("8h", "2h")
    offered = options(WINDOWS, {}, overhead_seconds=0, live_seconds=900, background=background)
    assert [option.window for option in offered if option.background] == ["8h", "2h"]
    few = fitting(offered, translatable=False)
    assert choose(few, left).option.window == window
    assert fitting(offered, translatable=True) == offered


def test_without_live_calls_a_late_window_is_better_than_none() -> None:
    offered = options({"24h": 0.5}, {}, overhead_seconds=0, live_seconds=None)
    choice = choose(offered, 60)
    assert choice.option.window == "24h"
    assert choice.reason == (
        "Nothing meets the deadline in 60 s; the 24h window (price x 0.5, taken for 21.6 h) is "
        "first."
    )


def test_the_reason_names_price_time_and_what_would_be_late() -> None:
    seen = {"8h": [3600.0] * 30}
    offered = options(WINDOWS, seen, overhead_seconds=0, live_seconds=900)
    assert choose(offered, 9000).reason == (
        "Cheapest is the 8h window (price x 0.6, the last 30 took 60 min): it meets the deadline "
        "in 2.5 h; the 24h window (price x 0.5, taken for 21.6 h) would be late."
    )


@given(lefts)
def test_a_band_holds_its_rows_and_ends_at_twice_its_beginning(left: float | None) -> None:
    band = band_of(left)
    low, high = span_of_band(band)
    far = float("inf") if left is None else left
    assert low <= far < (float("inf") if high is None else high) or (high is None and left is None)
    assert high is None or low == 0 or high == 2 * low


@given(st.lists(seconds, min_size=1), st.floats(min_value=0.01, max_value=1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_pass(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6
