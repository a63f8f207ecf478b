"""The reason why something waits is the first that holds, with a place and a time where known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.reasons import (
    MOST_AHEAD,
    AtProvider,
    Case,
    Reason,
    Server,
    Waits,
    decide,
    span,
)
from carpool.states import ProviderBatchState, QueueState, ServiceClass

UP = Server(name="own", up=True, opened=True, capacity=8)
FULL = replace(UP, in_flight=8)
DOWN = Server(name="away", up=False)
CASE = Case(model="m", service_class=ServiceClass.INTERACTIVE, servers=(UP,), ahead=0)


def test_what_is_next_is_the_first() -> None:
    assert decide(CASE) == Waits(reason=Reason.BEHIND, text="It is next.", place=1)


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"routed": False}, Reason.NO_ROUTE, "There is no route of the model 'm'."),
        (
            {"servers": ()},
            Reason.NO_ROUTE,
            "The route of 'm' has no leg for this team's interactive requests.",
        ),
        (
            {"servers": (replace(UP, opened=False),)},
            Reason.NO_ROUTE,
            "No leg of its route takes it at today's prices.",
        ),
        (
            {"servers": (DOWN, replace(DOWN, name="b"))},
            Reason.NO_LIVE_BACKEND,
            "No backend that may answer it is up ('away', 'b').",
        ),
        (
            {"servers": (replace(DOWN, paused=True),)},
            Reason.NO_LIVE_BACKEND,
            "No backend that may answer it is up ('away'); their workers are paused.",
        ),
        (
            {"servers": (DOWN, replace(UP, opened=False, opens_in_seconds=20.0))},
            Reason.NOT_YET,
            "Its route opens to 'own' in 20 s.",
        ),
        (
            {"servers": (replace(UP, gathers=True),)},
            Reason.GATHERING,
            "'own' gathers what waits for a provider batch.",
        ),
        (
            {"servers": (replace(UP, upstream="gpt", limited_seconds=30.0),)},
            Reason.RATE_LIMITED,
            "The rate limit of 'gpt' at 'own' is used up for 30 s.",
        ),
        ({"servers": (FULL,)}, Reason.CAP, "All 8 places of 'own' are taken."),
        (
            {"servers": (replace(FULL, capacity=1),)},
            Reason.CAP,
            "The one place of 'own' is taken.",
        ),
        (
            {"servers": (FULL,), "ahead": 3},
            Reason.BEHIND,
            "Behind 3 of its class and model; all 8 places of 'own' are taken.",
        ),
        ({"ahead": 3}, Reason.BEHIND, "Behind 3 of its class and model."),
        ({"earlier": 2}, Reason.BEHIND, "Behind 2 of classes that go first."),
        (
            {"earlier": 2, "ahead": 1},
            Reason.BEHIND,
            "Behind 2 of classes that go first and 1 of its own.",
        ),
        (
            {"ahead": 3, "ordered": False},
            Reason.BEHIND,
            "Among 3 others of its class and model, in no order of age.",
        ),
        (
            {"ahead": MOST_AHEAD, "earlier": 1},
            Reason.BEHIND,
            "Behind more than 10,000 of its model.",
        ),
        (
            {"state": QueueState.BACKING_OFF, "retry_seconds": 4.2, "attempts": 2},
            Reason.BACKING_OFF,
            "It is tried again in 4 s after 2 attempts.",
        ),
        (
            {"state": QueueState.FOLLOWING, "leader": "req_1"},
            Reason.FOLLOWING,
            "It gets the answer of req_1, which asks the same and came first.",
        ),
        (
            {"state": QueueState.SUSPECT, "lost": 2},
            Reason.SUSPECT,
            "It was lost with its engine 2 times, and runs with few others once an engine is "
            "empty.",
        ),
        (
            {"state": QueueState.SUSPECT, "servers": (DOWN,)},
            Reason.NO_LIVE_BACKEND,
            "No backend that may answer it is up ('away').",
        ),
    ],
    ids=str,
)
def test_each_reason_has_its_sentence(
    changes: dict[str, object], reason: Reason, text: str
) -> None:
    found = decide(replace(CASE, **changes))  # type: ignore[arg-type]
    assert (found.reason, found.text) == (reason, text)


def test_one_backend_that_is_free_is_enough() -> None:
    """Limits, places and gathering of the others hold nothing up."""
    others = (FULL, replace(UP, limited_seconds=60.0), replace(UP, gathers=True), DOWN)
    assert decide(replace(CASE, servers=(*others, UP))).text == "It is next."


def test_the_eta_is_of_all_that_go_before() -> None:
    found = decide(replace(CASE, ahead=8, earlier=1, per_second=5.0))
    assert (found.place, found.eta_seconds) == (10, 2.0)
    limited = replace(UP, limited_seconds=30.0)
    found = decide(replace(CASE, servers=(limited,), ahead=9, per_second=5.0))
    assert (found.place, found.eta_seconds) == (10, 32.0)
    assert decide(replace(CASE, servers=(DOWN,), per_second=5.0)).eta_seconds is None


def test_a_group_has_neither_place_nor_eta() -> None:
    group = replace(CASE, ahead=None, per_second=5.0)
    assert decide(group) == Waits(reason=Reason.BEHIND, text="In turn.")
    behind = decide(replace(group, earlier=1))
    assert behind.text == "Behind requests of classes that go first."
    assert decide(replace(group, servers=(FULL,))).reason is Reason.CAP


def test_a_provider_batch_on_its_way_and_at_the_provider() -> None:
    made = AtProvider(
        backend="batch",
        state=ProviderBatchState.UPLOADED,
        window="24h",
        status=None,
        seconds=30.0,
        usual_seconds=7200.0,
    )
    found = decide(replace(CASE, provider=made))
    assert (found.reason, found.eta_seconds) == (Reason.GATHERING, 7200.0)
    sent = replace(made, state=ProviderBatchState.SUBMITTED, status="in_progress", seconds=3600.0)
    found = decide(replace(CASE, provider=sent))
    assert (found.reason, found.eta_seconds) == (Reason.PROVIDER, 3600.0)
    assert found.text == (
        "At the provider of 'batch' for 60 min in a batch of 24h, which says 'in_progress'."
    )
    late = replace(sent, seconds=7300.0)
    assert decide(replace(CASE, provider=late)).eta_seconds is None


@given(
    state=st.sampled_from([state for state in QueueState if state is not QueueState.CLAIMED]),
    ahead=st.none() | st.integers(0, 2 * MOST_AHEAD),
    earlier=st.integers(0, 2 * MOST_AHEAD),
    ordered=st.booleans(),
    per_second=st.none() | st.floats(0, 1e6),
    servers=st.lists(
        st.builds(
            Server,
            name=st.just("b"),
            up=st.booleans(),
            opened=st.booleans(),
            opens_in_seconds=st.none() | st.floats(0, 1e9),
            in_flight=st.integers(0, 9),
            capacity=st.integers(0, 9),
            limited_seconds=st.floats(0, 1e9),
            gathers=st.booleans(),
            paused=st.booleans(),
        ),
        max_size=4,
    ),
)
def test_whatever_is_known_there_is_a_sentence_and_no_impossible_number(
    state: QueueState,
    ahead: int | None,
    earlier: int,
    ordered: bool,
    per_second: float | None,
    servers: list[Server],
) -> None:
    found = decide(
        Case(
            model="m",
            service_class=ServiceClass.FLEX,
            state=state,
            servers=servers,
            ahead=ahead,
            earlier=earlier,
            ordered=ordered,
            per_second=per_second,
        )
    )
    assert found.text.endswith(".")
    assert found.place is None or 1 <= found.place <= MOST_AHEAD + 1
    assert found.eta_seconds is None or found.eta_seconds >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1 s"), (59.6, "60 s"), (90, "2 min"), (5400, "1.5 h"), (86_400, "24 h")],
)
def test_a_span_is_short(seconds: float, text: str) -> None:
    assert span(seconds) == text
