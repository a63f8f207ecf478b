"""Which window a request goes to: the cheapest that meets its deadline. Pure.

A window takes as long as its last provider batches took, by a high percentile. Of a window that was
seen too seldom only its length is known; it is taken for a little shorter (`UNSEEN`), for else no
batch of 24 hours could ever go to a window of 24 hours, having waited for its upload. What turns
out to be late is taken back for live calls while there is time (see `keeper`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from carpool.windows import parse_window

PERCENTILE = 0.95
ENOUGH_SEEN = 20
"""Provider batches, below which a percentile says little."""
UNSEEN = 0.9
"""Of its length, what a window is taken for that was seen too seldom."""
FIRST_BAND_SECONDS, BANDS = 7200.0, 6
"""Of the time that is left: each band but the last ends at twice its beginning."""
LIVE_TIER = 1.0
"""What live calls cost; the tiers of windows are fractions of it (COMPAT section 5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A way to get answers: how long it takes, and what it costs of the price of live calls."""

    window: str | None
    """None is live."""
    tier: float
    seconds: float
    seen: int = 0
    """How many provider batches its time was learned from; 0: from its length."""
    background: bool = False
    """Whether it goes as background responses, which not every request can."""

    @property
    def live(self) -> bool:
        """Whether it is no window at all."""
        return self.window is None

    def meets(self, left_seconds: float | None) -> bool:
        """Whether it is done before a deadline that is so far away; None is no deadline."""
        return left_seconds is None or self.seconds <= left_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An option, and why it was taken: a sentence for people."""

    option: Option
    reason: str


def options(
    windows: Mapping[str, float],
    durations: Mapping[str, Sequence[float]],
    *,
    overhead_seconds: float,
    live_seconds: float | None,
    background: Collection[str] = (),
) -> list[Option]:
    """The windows, with their tiers and the times seen so far, and live calls where there are any.

    ``overhead_seconds`` is what gathering, upload and reading add to each window; those in
    ``background`` go as responses. No window is taken for shorter than live calls: what has less
    time than these want is taken back for them, however quick the window is.
    """
    found = []
    least = 0.0 if live_seconds is None else live_seconds
    for window, tier in windows.items():
        seen = durations.get(window, ())
        if len(seen) >= ENOUGH_SEEN:
            seconds, count = percentile(seen, PERCENTILE), len(seen)
        else:
            seconds, count = UNSEEN * parse_window(window).total_seconds(), 0
        seconds += overhead_seconds
        if seconds < least:
            seconds, count = least, 0
        found.append(
            Option(
                window=window,
                tier=tier,
                seconds=seconds,
                seen=count,
                background=window in background,
            )
        )
    if live_seconds is not None:
        found.append(Option(window=None, tier=LIVE_TIER, seconds=live_seconds))
    return found


def fitting(offered: Sequence[Option], *, translatable: bool) -> list[Option]:
    """The options of requests that may, or cannot, go as background responses."""
    return [option for option in offered if translatable or not option.background]


def choose(offered: Sequence[Option], left_seconds: float | None) -> Choice:
    """The cheapest option that meets the deadline; where none does, the one that is done first.

    Of those that are done at the same time, live calls: they begin at once.
    """
    meeting = [option for option in offered if option.meets(left_seconds)]
    if not meeting:
        first = min(offered, key=lambda option: (option.seconds, not option.live, option.tier))
        assert left_seconds is not None
        reason = f"Nothing meets the deadline in {_span(left_seconds)}; {_told(first)} is first."
        return Choice(option=first, reason=reason)
    best = min(meeting, key=lambda option: (option.tier, option.seconds))
    deadline = (
        "there is no deadline"
        if left_seconds is None
        else f"it meets the deadline in {_span(left_seconds)}"
    )
    late = [option for option in offered if option.tier < best.tier and option not in meeting]
    but = "".join(f"; {_told(option)} would be late" for option in late)
    return Choice(option=best, reason=f"Cheapest is {_told(best)}: {deadline}{but}.")


def shortest_seconds(offered: Sequence[Option]) -> float:
    """Below how much time left nothing but live calls will do; infinite without a window."""
    return min((option.seconds for option in offered if not option.live), default=float("inf"))


def span_of(offered: Sequence[Option], window: str) -> tuple[float, float | None] | None:
    """From how many seconds left on, and below how many, a window is the choice.

    None: it never is. An end of None is no end: it is the choice without a deadline, too.
    """
    marks = sorted({option.seconds for option in offered})
    chosen = [mark for mark in marks if choose(offered, mark).option.window == window]
    if not chosen:
        return None
    above = [mark for mark in marks if mark > chosen[-1]]
    # Where nothing meets a deadline that is nearer than all marks, the first of all is the choice.
    first = chosen[0] == marks[0] and choose(offered, -1.0).option.window == window
    low = 0.0 if first else chosen[0]
    return low, above[0] if above else None


def band_of(left_seconds: float | None) -> int:
    """What has so much time left goes with the like alone; no deadline is far away."""
    if left_seconds is None:
        return BANDS - 1
    doublings = int(max(left_seconds, 0.0) / FIRST_BAND_SECONDS).bit_length()
    return min(doublings, BANDS - 1)


def span_of_band(band: int) -> tuple[float, float | None]:
    """From how many seconds left on, and below how many; None is no end, and no deadline, too."""
    low = FIRST_BAND_SECONDS * 2 ** (band - 1) if band else 0.0
    return low, FIRST_BAND_SECONDS * 2**band if band < BANDS - 1 else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that is not below so great a share of them (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def _told(option: Option) -> str:
    if option.window is None:
        return f"live (price x {option.tier:g})"
    how = f"the last {option.seen} took" if option.seen else "taken for"
    return f"the {option.window} window (price x {option.tier:g}, {how} {_span(option.seconds)})"


def _span(seconds: float) -> str:
    """``90 s``, ``12 min``, ``5.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
