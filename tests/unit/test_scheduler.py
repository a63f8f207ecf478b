"""The scheduler never takes more than fits, keeps the order of classes, and forgets nobody."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.notices import Waiting
from carpool.states import ServiceClass
from tests.unit.queue_world import LATE_SECONDS, MODELS, NOW, TEAMS, World, claim_of, identifier
from workers.scheduler import ALONE_AFTER_LOSSES, SUSPECT_GROUP

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
    claims = [claim_of(row) for pick in picks for row in world.claim(pick)]
    world.scheduler.settle(picks, claims, settled=settled)
    assert not world.scheduler.idle


def test_ids_of_this_world_grow() -> None:
    world = World()
    assert all(one.id < other.id for one, other in pairwise(world.arrive() for _ in range(9)))
