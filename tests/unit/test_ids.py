"""Ids of one process strictly grow, tell their moment, and come back from the form clients see."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool import ids
from carpool.errors import NotFound
from carpool.ids import created_at, id_at, new_id, parse_public_id, public_id

MOMENT = datetime(2026, 11, 24, 7, tzinfo=UTC)
moments = st.datetimes(
    min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The one reading, in nanoseconds, that the clock shows until the test changes it."""
    readings = [int(MOMENT.timestamp() * 1e9)]
    monkeypatch.setattr("carpool.ids.time.time_ns", lambda: readings[0])
    monkeypatch.setattr(ids, "_last_milliseconds", 0)
    monkeypatch.setattr(ids, "_sequence", 0)
    return readings


def test_an_id_is_a_uuid_of_version_7() -> None:
    identifier = new_id()
    assert (identifier.version, identifier.variant) == (7, RFC_4122)


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time() - 0.001
    assert before <= created_at(new_id()).timestamp() <= time.time() + 0.001


def test_ids_grow_within_a_millisecond(clock: list[int]) -> None:
    """Also beyond the 4,096 that its counter can tell apart."""
    made = [new_id() for _ in range(10_000)]
    assert all(one < other for one, other in pairwise(made))
    assert created_at(made[-1]) - MOMENT <= timedelta(milliseconds=2)


@given(steps=st.lists(st.integers(-(10**10), 10**10), min_size=1, max_size=50))
def test_ids_grow_whatever_the_clock_does(steps: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = int(MOMENT.timestamp() * 1e9)
        readings = [now := now + step for step in steps]
        patch.setattr("carpool.ids.time.time_ns", iter(readings).__next__)
        patch.setattr(ids, "_last_milliseconds", 0)
        made = [new_id() for _ in steps]
    assert all(one < other for one, other in pairwise(made))


@given(moments)
def test_the_bound_of_a_moment_is_the_least_of_its_ids(moment: datetime) -> None:
    bound = id_at(moment)
    assert bound.version == 7
    assert timedelta() <= moment - created_at(bound) < timedelta(milliseconds=1.001)
    assert bound.int & ((1 << 62) - 1) == 0


def test_a_bound_parts_what_came_before_from_what_came_after(clock: list[int]) -> None:
    earlier = new_id()
    clock[0] += 5_000_000
    later = new_id()
    assert earlier < id_at(MOMENT + timedelta(milliseconds=3)) < later


@given(st.uuids())
def test_the_form_that_clients_see_comes_back(identifier: UUID) -> None:
    text = public_id("req_", identifier)
    assert len(text) == 36
    assert parse_public_id("req_", text) == identifier


@given(st.text(max_size=40) | st.text("0123456789abcdef+-_ {}", min_size=32, max_size=32))
def test_any_other_text_is_no_id(rest: str) -> None:
    text = f"req_{rest}"
    with suppress(NotFound):
        assert public_id("req_", parse_public_id("req_", text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "req_",
        "batch_" + "0" * 32,
        "0" * 32,
        "req_" + "0" * 33,
        "req_" + "g" * 32,
        "req_+" + "1" * 31,
        "req_1_" + "1" * 30,
        "REQ_" + "0" * 32,
    ],
)
def test_what_only_looks_like_an_id_is_none(text: str) -> None:
    with pytest.raises(NotFound):
        parse_public_id("req_", text)
