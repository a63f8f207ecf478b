"""Spans of time as people write them; among them how long a batch, or a request, may take."""

import re
from datetime import timedelta

from carpool.errors import InvalidRequest

DEADLINE_HEADER = "x-carpool-deadline"
UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_WINDOW = timedelta(days=30)
_SPAN = re.compile(r"(?P<count>[0-9]{1,9}(\.[0-9]{1,6})?)(?P<unit>[smhd]?)")
_WINDOW = re.compile(r"(?P<count>[1-9][0-9]{0,6})(?P<unit>[smhd])")


def parse_window(text: str) -> timedelta:
    """``24h``, ``30m``, ``7d``, up to 30 days; raises InvalidRequest."""
    match = _WINDOW.fullmatch(text)
    if match is not None:
        window = timedelta(seconds=int(match["count"]) * UNITS_SECONDS[match["unit"]])
        if window <= MAX_WINDOW:
            return window
    raise InvalidRequest(
        f"Invalid value for 'completion_window': '{text[:40]}'. Expected '24h', or another number "
        f"of seconds, minutes, hours or days up to {MAX_WINDOW.days} days ('90s', '30m', '2h').",
        param="completion_window",
        code="invalid_value",
    )


def parse_deadline(text: str) -> timedelta:
    """How long a request may take: more than 0, up to 30 days; raises InvalidRequest."""
    try:
        span = timedelta(seconds=parse_seconds(text))
    except ValueError:
        span = timedelta(0)
    if timedelta(0) < span <= MAX_WINDOW:
        return span
    raise InvalidRequest(
        f"Invalid value for '{DEADLINE_HEADER}': '{text[:40]}'. Expected more than 0 seconds, "
        f"minutes, hours or days, and up to {MAX_WINDOW.days} days ('90s', '30m', '2h').",
        param=DEADLINE_HEADER,
        code="invalid_value",
    )


def parse_seconds(text: str) -> float:
    """``20s``, ``1.5h``, ``7d``, a bare number of seconds; raises ValueError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text[:40]}' is no time; write 20s, 5m, 2h or 1d")
    return float(match["count"]) * UNITS_SECONDS[match["unit"] or "s"]


def format_seconds(seconds: float) -> str:
    """The same span in the largest unit that needs no fraction."""
    for unit, size in sorted(UNITS_SECONDS.items(), key=lambda item: -item[1]):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
