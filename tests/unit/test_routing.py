"""Every request that fits a route has exactly one backend to claim it, whatever backends are up."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.leg_text import format_leg, format_route, parse_leg
from carpool.routing import (
    HURRIED,
    SHARES,
    Cell,
    Kind,
    Leg,
    Route,
    RouteError,
    cells,
    check,
    resolved,
    upstreams,
)
from carpool.states import ServiceClass

BACKENDS = ("a", "b", "c")
TEAMS = ("red", "blue", "other")
CLASSES = ("interactive", "flex", "batch")

untimed = st.builds(
    Leg,
    backend=st.sampled_from(BACKENDS),
    classes=st.none() | st.lists(st.sampled_from(CLASSES), min_size=1, unique=True).map(tuple),
    teams=st.none() | st.lists(st.sampled_from(TEAMS[:2]), min_size=1, unique=True).map(tuple),
    share=st.none() | st.sampled_from([1.0, 5.0, 12.5, 30.0]),
)
timed = st.builds(
    Leg,
    backend=st.sampled_from(BACKENDS),
    after_seconds=st.none() | st.sampled_from([0.0, 20.0, 3600.0]),
)
places = st.tuples(
    st.sampled_from(ServiceClass), st.sampled_from(TEAMS), st.none() | st.integers(0, HURRIED)
)


def fits(leg: Leg, service_class: ServiceClass, team: str) -> bool:
    return leg.serves(service_class) and (leg.teams is None or team in leg.teams)


def takers(
    legs: list[Leg], live: frozenset[str], place: tuple[ServiceClass, str, int | None]
) -> Iterator[tuple[str, Cell]]:
    """The backends, and their cells, that may claim a row at once."""
    service_class, team, share = place
    for backend in live:
        for cell in cells("m", legs, backend, live=live):
            in_share = (
                cell.kind is Kind.WHOLE
                if share is None
                else cell.kind is Kind.SHARE and cell.shares[0] <= share < cell.shares[1]
            )
            if cell.service_class == service_class and cell.takes(team) and in_share:
                yield backend, cell


@given(st.lists(untimed, min_size=1, max_size=5), st.frozensets(st.sampled_from(BACKENDS)), places)
def test_the_first_leg_that_fits_and_is_up_gets_it_and_no_other(
    legs: list[Leg], live: frozenset[str], place: tuple[ServiceClass, str, int | None]
) -> None:
    """A row without a share came before the route cut any, and goes with the last share; so does
    one that was left to live calls, where no backend gathers any more."""
    service_class, team, share = place
    bucket = SHARES - 1 if share is None else min(share, SHARES - 1)
    low = 0.0
    expected = None
    for leg in legs:
        high = low + (leg.share or 0)
        inside = leg.share is None or low <= bucket / SHARES * 100 < high
        low = high
        if expected is None and leg.backend in live and inside:
            expected = leg.backend if fits(leg, service_class, team) else None
    found = [backend for backend, _ in takers(legs, live, place)]
    assert found == ([] if expected is None else [expected])


@given(
    st.lists(untimed | timed, min_size=1, max_size=5),
    st.frozensets(st.sampled_from(BACKENDS), min_size=1),
    places,
)
def test_what_fits_a_leg_whose_backend_is_up_is_never_left(
    legs: list[Leg], live: frozenset[str], place: tuple[ServiceClass, str, int | None]
) -> None:
    """At once or when time has passed, if the leg has no share of its own."""
    service_class, team, _ = place
    if not any(
        leg.backend in live and fits(leg, service_class, team) and leg.share is None for leg in legs
    ):
        return
    times = [
        cell
        for backend in live
        for cell in cells("m", legs, backend, live=live)
        if cell.kind is Kind.AFTER and cell.service_class == service_class and cell.takes(team)
    ]
    assert list(takers(legs, live, place)) or times


def test_a_leg_with_time_opens_beside_the_others_and_at_once_when_they_are_down() -> None:
    legs = [Leg(backend="a"), Leg(backend="b", after_seconds=20)]
    kinds = [cell.kind for cell in cells("m", legs, "b", live={"a", "b"})]
    assert set(kinds) == {Kind.AFTER}
    kinds = [cell.kind for cell in cells("m", legs, "b", live={"b"})]
    assert set(kinds) == {Kind.WHOLE, Kind.SHARE}
    alone = cells("m", legs[1:], "b", live={"b"})
    assert {cell.kind for cell in alone} == {Kind.AFTER}
    assert {cell.seconds for cell in alone} == {20}


def test_little_time_left_opens_for_every_class() -> None:
    """A batch has a deadline for all its lines, any other request its own."""
    legs = [Leg(backend="a", left_seconds=3600), Leg(backend="b")]
    check("m", Route(legs=tuple(legs)), backends=BACKENDS, routes={})
    found = cells("m", legs, "a", live={"a", "b"})
    assert {(cell.kind, cell.service_class, cell.seconds) for cell in found} == {
        (Kind.DUE, ServiceClass.INTERACTIVE, 3600),
        (Kind.DUE, ServiceClass.FLEX, 3600),
        (Kind.LEFT, ServiceClass.BATCH, 3600),
    }
    assert any(
        cell.kind is Kind.WHOLE and cell.service_class is ServiceClass.BATCH
        for cell in cells("m", legs, "b", live={"a", "b"})
    )


def test_what_a_patient_backend_has_no_time_for_is_left_to_the_legs_behind_it() -> None:
    legs = [Leg(backend="a", classes=("flex", "batch")), Leg(backend="b")]
    found = cells("m", legs, "b", live={"a", "b"}, patience={"a": 7200.0})
    for service_class, kind in ((ServiceClass.BATCH, Kind.LEFT), (ServiceClass.FLEX, Kind.DUE)):
        its = [cell for cell in found if cell.service_class is service_class]
        hurried = [cell for cell in its if cell.kind is Kind.SHARE]
        assert {cell.shares for cell in hurried} == {(HURRIED, HURRIED + 1)}
        assert {(cell.kind, cell.seconds) for cell in its if cell not in hurried} == {
            (kind, 7200.0)
        }
    without = cells("m", legs, "b", live={"a", "b"})
    assert {cell.service_class for cell in without} == {ServiceClass.INTERACTIVE}


@pytest.mark.parametrize("order", ["pab", "apb"])
def test_what_it_has_no_time_for_goes_by_the_first_of_them_that_is_up(order: str) -> None:
    """Also where the first stands before it: a dear last leg takes nothing that another has."""
    legs = [Leg(backend=backend, classes=("flex", "batch")) for backend in order]

    def taken(backend: str, live: set[str]) -> list[Cell]:
        return cells("m", legs, backend, live=live, patience={"p": 7200.0})

    assert taken("b", {"a", "b", "p"}) == []
    assert {cell.kind for cell in taken("b", {"b", "p"})} == {Kind.LEFT, Kind.DUE, Kind.SHARE}
    assert {cell.service_class for cell in taken("a", {"a", "b", "p"})} == {
        ServiceClass.FLEX,
        ServiceClass.BATCH,
    }


def test_what_it_has_no_time_for_goes_to_the_team_s_own_leg() -> None:
    legs = [Leg(backend="p"), Leg(backend="a", teams=("red",)), Leg(backend="b")]

    def takes(backend: str, team: str, live: set[str]) -> set[bool]:
        found = cells("m", legs, backend, live=live, patience={"p": 7200.0})
        return {cell.takes(team) for cell in found if cell.service_class is ServiceClass.BATCH}

    everywhere = {"a", "b", "p"}
    assert takes("a", "red", everywhere) == {True}
    assert takes("b", "red", everywhere) == {False}
    assert takes("b", "blue", everywhere) == {True}
    assert takes("b", "red", {"b", "p"}) == {True}


def test_a_patient_backend_takes_no_interactive_request_from_the_legs_behind_it() -> None:
    """It gathers none, so that a leg to it that names no classes would let them wait for ever."""
    legs = [Leg(backend="a"), Leg(backend="b")]
    found = cells("m", legs, "b", live={"a", "b"}, patience={"a": 7200.0})
    kinds = {cell.kind for cell in found if cell.service_class is ServiceClass.INTERACTIVE}
    assert kinds == {Kind.WHOLE, Kind.SHARE}
    patient = {cell.service_class for cell in found if cell.kind is Kind.WHOLE}
    assert patient == {ServiceClass.INTERACTIVE}


@pytest.mark.parametrize(
    ("leg", "condition"),
    [
        (Leg(backend="a", after_seconds=60), "after_seconds"),
        (Leg(backend="a", left_seconds=60), "left_seconds"),
    ],
    ids=["after", "left"],
)
def test_a_patient_backend_has_no_time_condition(leg: Leg, condition: str) -> None:
    route = Route(legs=(leg, Leg(backend="b")))
    check("m", route, backends=BACKENDS, patient=["b"], routes={})
    with pytest.raises(RouteError, match="gathers what waits") as caught:
        check("m", route, backends=BACKENDS, patient=["a"], routes={})
    assert caught.value.param == f"legs[0].{condition}"


def test_the_name_at_a_backend_is_known_where_one_leg_fits() -> None:
    legs = [
        Leg(backend="a", upstream="new", share=5),
        Leg(backend="a", upstream="red", teams=("red",)),
        Leg(backend="a", upstream="old", classes=("interactive", "flex")),
        Leg(backend="b", upstream="theirs"),
    ]

    def names(team: str, share: int | None, service_class: ServiceClass) -> set[str | None]:
        return upstreams(legs, "a", service_class=service_class, team=team, share=share)

    flex = ServiceClass.FLEX
    assert names("blue", SHARES - 1, flex) == {"old"}
    assert names("blue", None, flex) == {"old"}
    assert names("blue", 7, flex) == {"new", "old"}
    assert names("red", SHARES - 1, ServiceClass.BATCH) == {"red"}
    assert names("blue", SHARES - 1, ServiceClass.BATCH) == set()


def test_a_leg_that_is_too_dear_is_not_there() -> None:
    legs = [Leg(backend="a", max_price=1), Leg(backend="b", upstream="big")]
    assert cells("m", legs, "a", live={"a", "b"}, priced=lambda leg: False) == []
    found = cells("m", legs, "b", live={"a", "b"}, priced=lambda leg: False)
    assert {cell.upstream for cell in found} == {"big"}


def test_aliases_share_legs_and_keep_the_target_names() -> None:
    routes = {
        "m": Route(legs=(Leg(backend="a"), Leg(backend="b", upstream="x"))),
        "n": Route(alias="m", cache_seconds=5),
        "o": Route(alias="n"),
    }
    for name, kept in (("n", 5), ("o", None)):
        found = resolved(name, routes)
        assert [leg.upstream for leg in found.legs] == ["m", "x"]
        assert found.cache_seconds == kept
        check(name, routes[name], backends=BACKENDS, routes=routes)
    with pytest.raises(RouteError, match="cycle: m -> o -> n -> m"):
        check("m", Route(alias="o"), backends=BACKENDS, routes=routes)


legs_with_everything = st.builds(
    Leg,
    backend=st.sampled_from(["gpu", "openai-eu"]),
    upstream=st.none() | st.just("org/m:1"),
    classes=st.none() | st.lists(st.sampled_from(CLASSES), min_size=1, unique=True).map(tuple),
    teams=st.none() | st.just(("red", "blue team")),
    share=st.none() | st.sampled_from([5.0, 12.5]),
    after_seconds=st.none() | st.sampled_from([0.0, 0.5, 20.0, 90.0, 86400.0]),
    left_seconds=st.none() | st.sampled_from([1.0, 5400.0]),
    max_price=st.none() | st.sampled_from([0.0, 2.5]),
)


@given(legs_with_everything)
def test_a_leg_is_read_as_it_is_written(leg: Leg) -> None:
    assert parse_leg(format_leg(leg)) == leg
    assert msgspec.json.decode(msgspec.json.encode(leg), type=Leg) == leg


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no leg"),
        ("gpu,colour=red", "Unknown condition 'colour'"),
        ("gpu,after=soon", "no time"),
        ("gpu,share=many", "could not convert"),
        ("gpu,share=101%", "no leg"),
        ("gpu,class=vip", "no leg"),
        ("gpu,after", "no time"),
    ],
)
def test_what_is_no_leg_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(RouteError, match=words):
        parse_leg(text)


def test_a_route_is_told_on_a_line() -> None:
    legs = (Leg(backend="gpu"), Leg(backend="openai", upstream="gpt", after_seconds=20))
    assert format_route(Route(legs=legs)) == "gpu | openai=gpt,after=20s"
    assert format_route(Route(alias="m", cache_seconds=600)) == "as m (answers kept 10m)"


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((60.0,), "60 %, and no leg takes the rest"),
        ((60.0, 41.0), "101 %."),
        ((33.3, 33.3, 33.4), None),
        ((60.0, None), None),
        ((100.0,), None),
    ],
)
def test_shares_come_to_a_whole_or_leave_a_rest_to_another_leg(
    shares: tuple[float | None, ...], words: str | None
) -> None:
    """Of shares that cover less, the rest of the requests would wait for ever."""
    route = Route(legs=tuple(Leg(backend="a", share=share) for share in shares))
    if words is None:
        check("m", route, backends=BACKENDS, routes={})
        return
    with pytest.raises(RouteError, match=words):
        check("m", route, backends=BACKENDS, routes={})
