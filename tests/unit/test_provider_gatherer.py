"""What goes together goes to the window of its deadline, no more than a file holds, teams alike."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from carpool.routing import Cell, Kind
from carpool.states import ServiceClass
from db.claim import Group
from db.gathering import Waiters
from workers.provider_batches.gatherer import Bucket, shares, sort
from workers.provider_batches.planner import Option

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OFFERED = [
    Option(window="24h", tier=0.5, seconds=20 * 3600),
    Option(window="2h", tier=0.7, seconds=2 * 3600),
    Option(window=None, tier=1.0, seconds=900),
]
CELLS = [
    Cell(model="m", upstream="theirs", service_class=c, kind=Kind.WHOLE, teams=None)
    for c in (ServiceClass.FLEX, ServiceClass.BATCH)
]
BATCH = UUID(int=1)


def group(team: int = 1, rank: int = 0, service_class: int = ServiceClass.BATCH) -> Group:
    return Group(cell=CELLS[service_class - 1], team_id=team, rank=rank)


def waiters(
    hours: float | None = None, *, rows: int = 1, endpoint: int = 0, batch: UUID | None = None
) -> Waiters:
    deadline = None if hours is None else NOW + timedelta(hours=hours)
    return Waiters(group(), endpoint, batch, deadline, rows)


def test_each_deadline_goes_to_its_window_and_endpoint() -> None:
    found = [
        waiters(rows=3),
        waiters(30, rows=2, batch=BATCH),
        waiters(5),
        waiters(0.5),
        waiters(endpoint=2),
    ]
    companies, live = sort(found, lambda model, service_class: OFFERED, NOW)
    assert {bucket: sum(company.rows.values()) for bucket, company in companies.items()} == {
        Bucket("m", "theirs", 0, "24h", band=4): 2,
        Bucket("m", "theirs", 0, "24h", band=5): 3,
        Bucket("m", "theirs", 0, "2h", band=2): 1,
        Bucket("m", "theirs", 2, "24h", band=5): 1,
    }
    assert live == [found[3]]
    patient = companies[Bucket("m", "theirs", 0, "24h", band=4)]
    assert patient.deadline == NOW + timedelta(hours=30)
    assert patient.batches == {BATCH}
    assert "meets the deadline in 30.0 h" in patient.choice.reason


def test_what_has_no_equal_as_a_response_goes_apart_from_the_others() -> None:
    """With the way of the day alone: found to be verbatim, or not of chats, and late for it."""
    offered = [OFFERED[0], replace(OFFERED[1], background=True)]
    odd = Waiters(group(), 0, None, NOW + timedelta(hours=5), 1, True)
    companies, _ = sort(
        [waiters(5), odd, waiters(5, endpoint=2)], lambda model, service_class: offered, NOW
    )
    assert {bucket: company.offered for bucket, company in companies.items()} == {
        Bucket("m", "theirs", 0, "2h"): offered,
        Bucket("m", "theirs", 0, "24h", verbatim=True, band=2): offered[:1],
        Bucket("m", "theirs", 2, "24h", band=2): offered[:1],
    }


def test_what_only_live_calls_answer_in_time_is_left_to_them() -> None:
    late = [waiters(0.01), waiters(0.5)]
    assert sort(late, lambda model, service_class: OFFERED, NOW) == ({}, late)


def test_no_file_takes_rows_with_more_than_twice_the_time_of_its_first() -> None:
    """It is taken back as a whole when that one gets late; responses are taken back one by one."""
    far = [waiters(20.5), waiters(31), waiters(33), waiters(70), waiters()]
    companies, _ = sort(far, lambda model, service_class: OFFERED[:1], NOW)
    assert [sum(c.rows.values()) for c in companies.values()] == [2, 3]
    background = [replace(OFFERED[0], background=True)]
    companies, _ = sort(far, lambda model, service_class: background, NOW)
    assert [sum(c.rows.values()) for c in companies.values()] == [5]


def test_lower_ranks_and_flex_go_first_within_a_team() -> None:
    first, second, flex = group(rank=-5), group(rank=0), group(service_class=ServiceClass.FLEX)
    assert shares({second: 10, first: 6, flex: 2}, 10) == {flex: 2, first: 6, second: 2}


def test_teams_share_alike_and_leave_what_they_do_not_need() -> None:
    one, two, three = group(1), group(2), group(3)
    assert shares({one: 100, two: 5, three: 100}, 65) == {two: 5, one: 30, three: 30}


@given(
    st.dictionaries(
        st.tuples(st.integers(1, 4), st.integers(-2, 2)), st.integers(1, 100), min_size=1
    ),
    st.integers(1, 300),
)
def test_no_more_is_taken_than_waits_or_fits_and_nothing_is_left_over(
    waiting: dict[tuple[int, int], int], most: int
) -> None:
    rows = {group(team, rank): number for (team, rank), number in waiting.items()}
    takes = shares(rows, most)
    assert all(0 < take <= rows[taken] for taken, take in takes.items())
    assert sum(takes.values()) == min(most, sum(rows.values()))
