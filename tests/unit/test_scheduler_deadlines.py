"""What is near its deadline goes by it; what is past it is left to the sweep."""

from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from carpool.routing import Cell, Kind
from carpool.states import ServiceClass
from db.claim import NO_ID, Claim, First, Group, deadline_at, key_of
from tests.unit.queue_world import NOW, START_SECONDS, Row, claim_of, identifier
from workers.scheduler import Scheduler

NEAR_SECONDS = 600.0
DUE = Group(
    cell=Cell(
        model="m",
        upstream="m",
        service_class=ServiceClass.FLEX,
        kind=Kind.DUE,
        teams=None,
        seconds=NEAR_SECONDS,
    ),
    team_id=1,
)


@given(st.lists(st.integers(-900, 900), min_size=1, max_size=30), st.integers(1, 7))
def test_what_is_near_its_deadline_goes_by_it_and_what_is_past_it_is_left(
    seconds: list[int], free: int
) -> None:
    """One with a nearer deadline than any that was claimed is found by the next look."""
    scheduler = Scheduler(0)
    scheduler.route([DUE.cell], {})
    waiting = [
        (NOW + timedelta(seconds=left), identifier(START_SECONDS, number))
        for number, left in enumerate(seconds)
    ]
    claimed: list[datetime] = []
    *first, late = waiting
    for known in (first, [late]):
        queue = sorted(known)
        looked = [(due, i) for due, i in queue if due < NOW + timedelta(seconds=NEAR_SECONDS)]
        if looked:
            scheduler.look([First(DUE, key_of(looked[0][0]), looked[0][1])])
        before = len(claimed)
        while picks := scheduler.plan(free=free, in_flight=0, now=NOW):
            [pick] = picks
            assert pick.due_before == NOW + timedelta(seconds=NEAR_SECONDS)
            place = (deadline_at(pick.after_key), pick.after)
            taken = [each for each in queue if place < each and each[0] < pick.due_before]
            taken = taken[: pick.take]
            queue = [each for each in queue if each not in taken]
            claims = [_due_claim(*each) for each in taken]
            scheduler.settle(picks, claims, settled=NO_ID)
            claimed += [due for due, _ in taken]
        assert claimed[before:] == sorted(claimed[before:])
    assert sorted(claimed) == sorted(
        due for due, _ in waiting if NOW <= due < NOW + timedelta(seconds=NEAR_SECONDS)
    )


def _due_claim(deadline: datetime, found: UUID) -> Claim:
    row = Row(found, "m", ServiceClass.FLEX, 1, 0, 0.0)
    return claim_of(row, deadline=deadline)
