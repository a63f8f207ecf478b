"""Completion windows are OpenAI's, or any other up to thirty days, and so are deadlines."""

from datetime import timedelta

import pytest

from carpool.errors import InvalidRequest
from carpool.windows import parse_deadline, parse_window


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


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("45", timedelta(seconds=45)),
        ("0.5", timedelta(seconds=0.5)),
        ("30d", timedelta(days=30)),
    ],
)
def test_a_deadline(text: str, span: timedelta) -> None:
    assert parse_deadline(text) == span


@pytest.mark.parametrize(
    "text",
    ["", "0", "0s", "0.0000001", "-5s", "31d", "999999999.999999d", "soon", "1h1m", "nan", "inf"],
)
def test_what_is_no_deadline_is_named(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_deadline(text)
    assert (caught.value.param, caught.value.code) == ("x-carpool-deadline", "invalid_value")
    assert len(caught.value.message) < 300
