"""What a provider bears is found, kept to, and found again when it changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backends.concurrency import Concurrency, Places

ROUND_SECONDS = 1.0


class Simulation:
    """A provider that answers ``capacity`` calls in a round and refuses the others."""

    def __init__(self, concurrency: Concurrency, capacity: int, offered: int = 10**6) -> None:
        self.concurrency = concurrency
        self.capacity = capacity
        self.offered = offered
        self.now = 0.0

    def round(self) -> int:
        """One round of as many calls as may be; how many were answered."""
        began, sent = self.now, min(self.concurrency.limit, self.offered)
        self.now += ROUND_SECONDS
        answered = min(sent, self.capacity)
        for _ in range(answered):
            self.concurrency.succeeded(sent)
        for _ in range(sent - answered):
            self.concurrency.strained(began=began, now=self.now)
        return answered

    def rounds(self, number: int) -> list[int]:
        return [self.round() for _ in range(number)]


@given(
    capacity=st.integers(1, 200),
    maximum=st.integers(1, 512),
    start=st.none() | st.integers(1, 512),
)
def test_it_converges_near_what_the_provider_bears(
    capacity: int, maximum: int, start: int | None
) -> None:
    """From any start, in the rounds that growth takes; with two thirds of the throughput."""
    simulation = Simulation(Concurrency(maximum, start=start), capacity)
    bears = min(capacity, maximum)
    simulation.rounds(2 * bears + 12)
    limits, answered = [], []
    for _ in range(2 * bears + 10):
        answered.append(simulation.round())
        limits.append(simulation.concurrency.limit)
    assert max(limits) <= bears + 2
    assert min(limits) >= bears // 2
    assert sum(answered) >= 0.66 * bears * len(answered)


@given(st.lists(st.sampled_from(("success", "strain", "late")), max_size=300), st.integers(1, 64))
def test_it_stays_between_one_and_the_maximum(events: list[str], maximum: int) -> None:
    concurrency = Concurrency(maximum)
    for now, event in enumerate(events):
        if event == "success":
            concurrency.succeeded(concurrency.limit)
        else:
            began = now - 10 if event == "late" else now - 0.5
            concurrency.strained(began=began, now=float(now))
        assert 1 <= concurrency.limit <= maximum


def test_one_storm_halves_it_once() -> None:
    """The calls in flight when the limit was cut were sent under the old one."""
    concurrency = Concurrency(64)
    for _ in range(64):
        concurrency.strained(began=0.0, now=1.0)
    assert concurrency.limit == 32
    concurrency.strained(began=1.0, now=1.1)
    assert concurrency.limit == 16


def test_a_round_of_successes_adds_about_one() -> None:
    concurrency = Concurrency(64, start=10)
    for _ in range(11):
        concurrency.succeeded(10)
    assert concurrency.limit == 11


def test_calls_that_leave_room_prove_nothing() -> None:
    concurrency = Concurrency(64, start=10)
    for _ in range(1000):
        concurrency.succeeded(4)
    assert concurrency.limit == 10


def test_it_finds_a_capacity_that_has_grown() -> None:
    simulation = Simulation(Concurrency(256), capacity=10)
    simulation.rounds(30)
    assert simulation.concurrency.limit <= 12
    simulation.capacity = 100
    assert sum(simulation.rounds(300)[-100:]) >= 0.66 * 100 * 100


@pytest.mark.parametrize(("start", "limit"), [(None, 8), (3, 3), (0, 1), (100, 8)])
def test_it_starts_at_the_maximum_or_where_it_is_told(start: int | None, limit: int) -> None:
    assert Concurrency(8, start=start).limit == limit


def test_a_rate_limit_takes_places_from_its_model_alone_and_strain_from_all() -> None:
    places = Places(8)
    with places.take("a"), places.take("a"):
        assert (places.free("a"), places.free("b"), places.taken("a")) == (6, 8, 2)
        places.limited("a", began=0.0, now=1.0)
        places.limited("a", began=1.0, now=2.0)
        assert (places.free("a"), places.free("b"), places.limit) == (0, 8, 8)
        assert places.full() == ["a"]
    assert not places.full()
    places.strained(began=0.0, now=1.0)
    assert (places.free("a"), places.free("b"), places.limit) == (2, 8, 4)
