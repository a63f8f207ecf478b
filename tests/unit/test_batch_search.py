"""The pace of a batch is that of late, over as long as tells it well."""

import pytest

from db.batch_search import RECENT_LINES, Pace


@pytest.mark.parametrize(
    ("pace", "running_seconds", "per_second"),
    [
        (Pace(RECENT_LINES, 1, 2.0), 900, RECENT_LINES / 2),
        (Pace(3000, 600, 800.0), 7200, 10),
        (Pace(100, 100, 9.0), 10, 10),
        (Pace(9, 0, 800.0), 7200, 0.01),
        (Pace(2, 2, 3.0), 4, 0.5),
        (Pace(1, 1, 0.0), 0.0, 1),
        (Pace(RECENT_LINES, 1, 0.0), 1, RECENT_LINES * 1000),
    ],
    ids=["many", "a minute", "just begun", "slow", "few", "at once", "all at one moment"],
)
def test_lines_a_second(pace: Pace, running_seconds: float, per_second: float) -> None:
    assert pace.per_second(running_seconds) == pytest.approx(per_second)
