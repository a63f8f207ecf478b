"""A log gets few and plain lines; rate and time left are those of the last minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bulk.pace import WINDOW_SECONDS, Counts, Pace, described, duration
from cli.bulk.progress import LINE_SECONDS, PlainLines

steps = st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 500)), min_size=1, max_size=60)


def counts(done: int, total: int = 1000, failed: int = 0) -> Counts:
    return Counts(total=total, done=done, failed=failed)


def test_the_rate_is_that_of_the_last_minute() -> None:
    pace = Pace()
    for second in range(0, 300, 5):
        pace.note(second, second * 10)
    for second in range(300, 400, 5):
        pace.note(second, 3000 + (second - 300))
    assert pace.rate == pytest.approx(1)
    assert pace.seconds_left(counts(3095, total=3195)) == pytest.approx(100)


def test_no_rate_is_made_up() -> None:
    pace = Pace()
    assert pace.rate is None
    pace.note(1, 0)
    assert pace.rate is None
    pace.note(2, 0)
    assert pace.seconds_left(counts(0)) is None


@given(steps)
def test_a_rate_lies_between_the_slowest_and_the_fastest_step(
    taken: list[tuple[float, int]],
) -> None:
    pace = Pace()
    now, done = 0.0, 0
    pace.note(now, done)
    for seconds, more in taken:
        now, done = now + seconds, done + more
        pace.note(now, done)
    rates = [more / seconds for seconds, more in taken]
    if pace.rate is not None:
        assert min(rates) * 0.999 <= pace.rate <= max(rates) * 1.001
    assert len(pace._seen) <= 2 + WINDOW_SECONDS / 0.01


def test_a_description_tells_all() -> None:
    pace = Pace()
    pace.note(0, 0)
    assert described(counts(0, total=5000), pace) == "0 of 5,000 done, 0 failed"
    pace.note(10, 2000)
    assert (
        described(counts(2000, total=5000, failed=3), pace)
        == "2,000 of 5,000 done, 3 failed, 200.0/s, about 15 s left"
    )
    pace.note(20, 5000)
    assert described(counts(5000, total=5000), pace) == "5,000 of 5,000 done, 0 failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = PlainLines(clock=lambda: now)
    for tick in range(1000):
        now = tick / 10
        lines.show(counts(tick))
    assert 0 < len(capsys.readouterr().err.splitlines()) <= 100 / LINE_SECONDS + 1


def test_a_line_that_says_nothing_new_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = PlainLines(clock=lambda: now)
    for tick in range(10):
        now = tick * LINE_SECONDS
        lines.show(counts(0))
    assert capsys.readouterr().err == "carpool: 0 of 1,000 done, 0 failed\n"


def test_the_end_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(clock=lambda: 0.0)
    lines.show(counts(0))
    lines.show(counts(1000))
    assert capsys.readouterr().err.splitlines()[-1] == "carpool: 1,000 of 1,000 done, 0 failed"


def test_lines_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines().say("a\x1b[2J\rb")
    assert capsys.readouterr().err == "carpool: a\\x1b[2J\\rb\n"


def test_an_upload_is_told_when_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines()
    with lines.upload("part 1 of 2", 2_000_000) as sent:
        sent(5)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "carpool: uploaded part 1 of 2 (2,000,000 bytes)\n"
