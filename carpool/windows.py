"""Completion windows: how long a batch may take."""

import re
from datetime import timedelta

from carpool.errors import InvalidRequest

UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_WINDOW = timedelta(days=30)
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
