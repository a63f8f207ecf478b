"""A response is looked at the less often the older it is, and is never forgotten."""

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from db.provider_batches import Member
from db.provider_responses import OpenResponse
from workers.provider_batches.response_pace import Pace

HOUR = 3600.0
MEMBER = Member(UUID(int=1), 1, 0, 1, 0)


def response(age_seconds: float = 0.0, name: str = "resp_1") -> OpenResponse:
    return OpenResponse(MEMBER, name, False, datetime.now(UTC), age_seconds)


def pace(window_hours: float = 2.0, poll_seconds: float = 60.0) -> Pace:
    return Pace(window_seconds=window_hours * HOUR, poll_seconds=poll_seconds)


@given(st.floats(0, 10 * HOUR), st.sampled_from([2.0, 8.0]), st.floats(0.01, 600))
def test_the_pause_grows_with_age_within_bounds(
    age: float, window_hours: float, poll_seconds: float
) -> None:
    mine = pace(window_hours, poll_seconds)
    pause = mine.pause_seconds(age)
    assert poll_seconds <= pause <= max(poll_seconds, window_hours * HOUR * 0.05)
    assert pause <= mine.pause_seconds(age + 60)


def test_a_window_costs_few_looks() -> None:
    for window_hours, most in ((2.0, 40), (8.0, 55)):
        mine, age, looks = pace(window_hours), 0.0, 0
        while age < window_hours * HOUR:
            age += mine.pause_seconds(age)
            looks += 1
        assert looks <= most


def test_a_new_one_waits_and_one_of_an_earlier_keeper_does_not() -> None:
    mine, new, old = pace(), response(1, "new"), response(500, "old")
    assert mine.due([old, new], 1000.0) == [old]
    mine.looked(old, 1000.0)
    assert mine.due([old, new], 1058.0) == []
    assert mine.due([old, new], 1059.0) == [new]
    assert mine.due([old, new], 1060.0) == [old, new]


def test_what_was_not_looked_at_is_due_still() -> None:
    mine, some = pace(), [response(100, f"resp_{n}") for n in range(3)]
    assert mine.due(some, 0.0) == some
    mine.looked(some[0], 0.0)
    assert mine.due(some, 1.0) == some[1:]
    mine.forget("resp_0")
    assert mine.due(some, 1.0) == some
