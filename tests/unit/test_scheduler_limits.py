"""A model whose provider limits it holds no other up, and gets its turn when its budget refills."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from carpool.states import ServiceClass
from tests.unit.queue_world import CELLS, MODELS, NOW, World

FLOWING, LIMITED = MODELS
MANY = 10_000


@given(
    st.lists(
        st.tuples(st.sampled_from(MODELS), st.sampled_from(ServiceClass), st.integers(1, 4)),
        max_size=60,
    ),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_no_claim_takes_more_than_is_granted_and_all_is_claimed_as_budgets_refill(
    rows: list[tuple[str, ServiceClass, int]], free: int, refill: int
) -> None:
    """Nothing that waits is looked for anew: what was cut is not forgotten."""
    world = World()
    for model, service_class, team in rows:
        world.arrive(model, service_class, team)
    world.look()
    budgets = {FLOWING: MANY, LIMITED: 0}
    rounds = 0
    while world.rows:
        shut = {model for model, left in budgets.items() if not left}
        before = dict(budgets)
        claimed = world.turn(free, shut=shut, budgets=budgets)
        for model in MODELS:
            assert sum(row.model == model for row in claimed) <= before[model]
        world.finish(claimed)
        if not claimed:
            budgets[LIMITED] += refill
        rounds += 1
        assert rounds <= 4 * len(rows) + 4


def test_while_a_model_is_shut_the_others_have_all_places_whatever_its_class() -> None:
    world = World()
    for _ in range(9):
        world.arrive(LIMITED)
        world.arrive(FLOWING, ServiceClass.BATCH)
    world.look()
    assert {row.model for row in world.turn(9, shut={LIMITED})} == {FLOWING}
    assert not world.turn(9, shut=MODELS)
    world.finish(world.held())
    assert {row.model for row in world.turn(9)} == {LIMITED}


@given(st.integers(1, 10), st.integers(2, 5), st.integers(1, 4))
def test_teams_take_turns_in_what_is_granted(free: int, teams: int, refill: int) -> None:
    """However little that is, no team gets ahead of another by more than one."""
    world = World()
    for team in range(teams):
        for _ in range(60):
            world.arrive(LIMITED, team=team)
    world.look()
    served: Counter[int] = Counter(dict.fromkeys(range(teams), 0))
    for _ in range(60 // min(free, refill)):
        rows = world.turn(free, budgets={LIMITED: refill})
        assert rows
        served.update(row.team_id for row in rows)
        world.finish(rows)
        assert max(served.values()) - min(served.values()) <= 1


def test_a_model_that_got_nothing_goes_first_when_it_may() -> None:
    """One place frees at a time, and another model always waits for it, too."""
    world = World()
    for _ in range(5):
        world.arrive(FLOWING)
        world.arrive(LIMITED)
    world.look()
    assert {row.model for row in world.turn(2, budgets={FLOWING: 1, LIMITED: 0})} == {FLOWING}
    world.finish(world.turn(1, shut={LIMITED}))
    assert [row.model for row in world.turn(1)] == [LIMITED]


def test_suspects_of_a_limited_model_go_on_waiting() -> None:
    world = World()
    for _ in range(3):
        world.arrive(LIMITED).lost = 2
    world.look()
    assert not world.turn(9, budgets={LIMITED: 0})
    assert len(world.turn(9, budgets={LIMITED: 2})) == 2
    world.finish(world.held())
    assert len(world.turn(9, budgets={LIMITED: 2})) == 1


def test_what_was_planned_by_routes_that_are_gone_waits_no_more() -> None:
    """They changed while the provider's budget was asked."""
    world = World()
    world.arrive(LIMITED)
    world.look()
    picks = world.scheduler.plan(free=3, in_flight=0, now=NOW)
    world.scheduler.route([replace(cell) for cell in CELLS.values()], {})
    assert world.scheduler.cut(picks, {LIMITED: 0}) == []
    assert world.scheduler.idle
