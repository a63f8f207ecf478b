"""The scheduler never takes more than fits, keeps the order of classes, and forgets nobody."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.notices import Waiting
from carpool.routing import Cell, Kind
from carpool.states import ServiceClass
from db.claim import NO_ID, Claim, First, Group, Pick, deadline_at, key_of
from workers.scheduler import (
    ALONE_AFTER_LOSSES,
    SUSPECT_GROUP,
    Scheduler,
)

LATE_SECONDS = 2.0
"""How long after an id is made its row may become visible."""
START_SECONDS = 1000.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODELS, TEAMS = ("m", "n"), (1, 2, 3)
CELLS = {
    (model, service_class): Cell(
        model=model, upstream=model, service_class=service_class, kind=Kind.WHOLE, teams=None
    )
    for model in MODELS
    for service_class in ServiceClass
}


def identifier(seconds: float, serial: int) -> UUID:
    return UUID(int=(int(seconds * 1000) << 80) | (0x7 << 76) | (0b10 << 62) | serial)


@dataclass(slots=True)
class Row:
    """A row of the queue, as far as the order of claims goes."""

    id: UUID
    model: str
    service_class: ServiceClass
    team_id: int
    prefix_key: int
    visible_at: float
    lost: int = 0
    held: bool = False


class World:
    """A queue that answers as the SQL does, a clock, and a scheduler that is watched."""

    def __init__(self, origin_key: int = 0) -> None:
        self.now = START_SECONDS
        self.rows: dict[UUID, Row] = {}
        self.claimed: list[Row] = []
        self.scheduler = Scheduler(origin_key)
        self.scheduler.route(CELLS.values(), {})

    def arrive(
        self,
        model: str = "m",
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        team: int = 1,
        key: int = 0,
        late: float = 0,
    ) -> Row:
        found = identifier(self.now, len(self.rows) + len(self.claimed) * 1000)
        row = Row(found, model, service_class, team, key, self.now + late)
        self.rows[row.id] = row
        return row

    def look(self) -> None:
        """Tell the scheduler all that waits, suspects by the fewest losses of each model."""
        waiting = sorted(self._waiting(), key=lambda row: (row.prefix_key, row.id))
        firsts: dict[Group, First] = {}
        for row in waiting:
            group = Group(cell=CELLS[row.model, row.service_class], team_id=row.team_id)
            if row.lost < 2 and (
                group not in firsts
                or (row.service_class is not ServiceClass.BATCH and row.id < firsts[group].id)
            ):
                firsts[group] = First(group, row.prefix_key, row.id)
        for model in MODELS:
            suspects = [row for row in waiting if row.lost >= 2 and row.model == model]
            if suspects:
                least = min(suspects, key=lambda row: row.lost)
                group = _suspects(model, least.lost)
                firsts[group] = First(group, 0, least.id)
        self.scheduler.look(firsts.values())

    def turn(self, free: int) -> list[Row]:
        """One plan, its claim and what is learned of it."""
        in_flight = sum(row.held for row in self.rows.values())
        picks = self.scheduler.plan(free=free, in_flight=in_flight, now=NOW)
        assert all(pick.take > 0 for pick in picks)
        assert sum(pick.take for pick in picks) <= max(free, 0)
        assert len({pick.group for pick in picks}) == len(picks)
        if any(pick.group.lost for pick in picks):
            self._check_suspects(picks, in_flight)
        assert len({pick.group.cell.service_class for pick in picks}) <= 1
        rows = [row for pick in picks for row in self._claim(pick)]
        claims = [_claim(row) for row in rows]
        self.scheduler.settle(picks, claims, settled=identifier(self.now - LATE_SECONDS, 0))
        self.claimed += rows
        return rows

    def turns(self, free: int) -> list[Row]:
        """Turn until nothing more comes, each claim finished before the next."""
        found: list[Row] = []
        while True:
            rows = self.turn(free)
            found += rows
            self.finish(rows)
            if not rows and self.scheduler.idle:
                return found

    def finish(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows.pop(row.id)

    def held(self) -> list[Row]:
        return [row for row in self.rows.values() if row.held]

    def _waiting(self) -> list[Row]:
        return [r for r in self.rows.values() if not r.held and r.visible_at <= self.now]

    def _claim(self, pick: Pick) -> Sequence[Row]:
        group = pick.group
        cell = group.cell
        if group.lost:
            rows = [r for r in self._waiting() if r.model == cell.model and r.lost == group.lost]
        else:
            rows = [
                row
                for row in self._waiting()
                if row.lost < 2
                and (row.model, row.service_class, row.team_id)
                == (cell.model, cell.service_class, group.team_id)
            ]
        if group.lost or not group.by_prefix:
            rows = sorted((r for r in rows if r.id > pick.after), key=lambda r: r.id)
        else:
            place = (pick.after_key, pick.after)
            rows = sorted(
                (r for r in rows if (r.prefix_key, r.id) > place),
                key=lambda r: (r.prefix_key, r.id),
            )
        for row in rows[: pick.take]:
            row.held = True
        return rows[: pick.take]

    def _check_suspects(self, picks: Sequence[Pick], in_flight: int) -> None:
        assert in_flight == 0
        [pick] = picks
        assert pick.take <= SUSPECT_GROUP
        assert pick.take == 1 or pick.group.lost < ALONE_AFTER_LOSSES


def _suspects(model: str, lost: int) -> Group:
    return Group(cell=CELLS[model, ServiceClass.INTERACTIVE], team_id=0, lost=lost)


def _claim(row: Row, *, deadline: datetime | None = None) -> Claim:
    return Claim(
        id=row.id,
        epoch=1,
        team_id=row.team_id,
        service_class=row.service_class,
        endpoint=0,
        model=row.model,
        streamed=False,
        attempts=0,
        lost=row.lost,
        channel=None,
        prefix_key=row.prefix_key,
        share=None,
        rank=0,
        batch_id=None,
        deadline=deadline,
        stopped=False,
        body=b"{}",
        upstream=row.model,
    )


arrivals = st.tuples(
    st.just("arrive"),
    st.sampled_from(MODELS),
    st.sampled_from(ServiceClass),
    st.sampled_from(TEAMS),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(0, LATE_SECONDS * 0.9),
)
deeds = st.one_of(
    arrivals,
    arrivals,
    st.tuples(st.sampled_from(["look", "finish", "fail", "lose"])),
    st.tuples(st.just("turn"), st.integers(-1, 12)),
    st.tuples(st.just("tick"), st.floats(0, 5)),
)


@given(st.lists(deeds, max_size=40), st.integers(-(2**63), 2**63 - 1), st.integers(1, 12))
def test_whatever_happens_all_is_claimed_in_the_end(
    history: list[tuple[object, ...]], origin: int, free: int
) -> None:
    world = World(origin)
    for deed in history:
        _do(world, deed)
    rounds = 0
    while world.rows:
        world.finish(world.held())
        world.now += 1
        world.look()
        world.turns(free)
        rounds += 1
        assert rounds <= LATE_SECONDS + 2, world.rows


def _do(world: World, deed: tuple[object, ...]) -> None:
    match deed:
        case ("arrive", model, service_class, team, key, late):
            world.arrive(model, service_class, team, key, late)  # type: ignore[arg-type]
        case ("turn", free):
            world.turn(free)  # type: ignore[arg-type]
        case ("tick", seconds):
            world.now += seconds  # type: ignore[operator]
        case ("look",):
            world.look()
        case ("finish",):
            world.finish(world.held())
        case ("fail",):
            for row in world.held():
                row.held = False
        case ("lose",):
            for row in world.held():
                row.held, row.lost = False, row.lost + 1


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, LATE_SECONDS * 0.9)), max_size=15),
    st.integers(1, 5),
)
def test_a_row_that_is_visible_late_is_not_passed_over(
    rows: list[tuple[float, float]], free: int
) -> None:
    """Ids are made before their rows commit; the next look finds them."""
    world = World()
    for pause, late in rows:
        world.now += pause
        world.arrive(late=late)
        world.look()
        world.turns(free)
    world.now += LATE_SECONDS
    world.look()
    world.turns(free)
    assert not world.rows


def test_interactive_goes_before_flex_before_batch() -> None:
    world = World()
    for service_class in reversed(ServiceClass):
        for team in TEAMS:
            for _ in range(3):
                world.arrive(service_class=service_class, team=team)
    world.look()
    claimed = [row.service_class for row in world.turns(4)]
    assert claimed == sorted(claimed)


def test_what_comes_meanwhile_goes_first_if_its_class_does() -> None:
    world = World()
    for _ in range(10):
        world.arrive(service_class=ServiceClass.BATCH)
    world.look()
    assert len(world.turn(2)) == 2
    urgent = world.arrive()
    world.look()
    assert world.turn(2) == [urgent]


@given(st.integers(1, 10), st.integers(2, 5), st.sampled_from(ServiceClass))
def test_teams_take_turns(free: int, teams: int, service_class: ServiceClass) -> None:
    """However many are free at once, no team gets ahead of another by more than one."""
    world = World()
    for team in range(teams):
        for _ in range(60):
            world.arrive(service_class=service_class, team=team)
    world.look()
    served: Counter[int] = Counter(dict.fromkeys(range(teams), 0))
    for _ in range(60 // free):
        rows = world.turn(free)
        assert len(rows) == free
        served.update(row.team_id for row in rows)
        world.finish(rows)
        assert max(served.values()) - min(served.values()) <= 1


@pytest.mark.parametrize("service_class", [ServiceClass.INTERACTIVE, ServiceClass.FLEX])
def test_a_teams_own_go_by_age(service_class: ServiceClass) -> None:
    world = World()
    shuffled = random.Random(7).sample(range(50), 50)
    rows = [world.arrive(service_class=service_class, key=key) for key in shuffled]
    world.look()
    assert world.turns(7) == sorted(rows, key=lambda row: row.id)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1, 7),
)
def test_a_batch_goes_by_prefix_once_round_from_the_runs_own_place(
    keys: list[int], origin: int, free: int
) -> None:
    world = World(origin)
    for key in keys:
        world.arrive(service_class=ServiceClass.BATCH, key=key)
    world.look()
    claimed = [row.prefix_key for row in world.turns(free)]
    before = sorted(key for key in keys if key < origin)
    after = sorted(key for key in keys if key >= origin)
    assert claimed == after + before


def test_suspects_wait_until_the_engine_is_empty_and_nobody_joins_them() -> None:
    world = World()
    for _ in range(SUSPECT_GROUP + 3):
        world.arrive().lost = 2
    healthy = world.arrive()
    healthy.held = True
    world.arrive()
    world.look()
    assert world.turn(100) == []
    world.finish([healthy])
    first = world.turn(100)
    assert [row.lost for row in first] == [2] * SUSPECT_GROUP
    assert world.turn(100) == []
    world.finish(first)
    assert len(world.turn(100)) == 3


def test_who_was_lost_again_runs_alone() -> None:
    world = World()
    for _ in range(3):
        world.arrive().lost = ALONE_AFTER_LOSSES
    for _ in range(3):
        world.look()
        [alone] = world.turn(100)
        world.finish([alone])
    assert not world.rows


@pytest.mark.parametrize("free", [0, -1])
def test_a_full_engine_takes_nothing(free: int) -> None:
    world = World()
    world.arrive()
    world.look()
    assert world.turn(free) == []
    assert not world.scheduler.idle


def test_a_bell_during_a_claim_is_not_forgotten() -> None:
    world = World()
    world.arrive()
    bell = Waiting("m", ServiceClass.INTERACTIVE, 1)
    settled = identifier(world.now - LATE_SECONDS, 0)
    world.scheduler.note(bell, settled=settled)
    picks = world.scheduler.plan(free=5, in_flight=0, now=NOW)
    world.scheduler.note(bell, settled=settled)
    claims = [_claim(row) for pick in picks for row in world._claim(pick)]
    world.scheduler.settle(picks, claims, settled=settled)
    assert not world.scheduler.idle


def test_ids_of_this_world_grow() -> None:
    world = World()
    assert all(one.id < other.id for one, other in pairwise(world.arrive() for _ in range(9)))


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
    return _claim(row, deadline=deadline)
