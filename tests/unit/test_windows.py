"""Completion windows are OpenAI's, or any other up to thirty days."""

from datetime import timedelta

import pytest

from carpool.errors import InvalidRequest
from carpool.windows import parse_window


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("24h", timedelta(days=1)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("90s", timedelta(seconds=90)),
        ("30d", timedelta(days=30)),
    ],
)
def test_a_window(text: str, window: timedelta) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text",
    [
        "",
        "24",
        "h",
        "0h",
        "-1h",
        "1.5h",
        "24 h",
        "24H",
        "31d",
        "9999999h",
        "1h1m",
        "٣h",
        "9" * 5000,
    ],
)
def test_what_is_no_window_is_named(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_window(text)
    assert (caught.value.param, caught.value.code) == ("completion_window", "invalid_value")
    assert len(caught.value.message) < 300
