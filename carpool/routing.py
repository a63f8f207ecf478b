"""Routes: which backends may claim a model's requests, and when.

A route is a list of legs. Of those whose class, team, share and price fit a request, the first
whose backend is up gets it, as in a firewall's rules. A leg with a time condition opens beside the
others: for what has waited so long, or what is so near its deadline; and for all that fits it
while every leg before it is down. Pure: what is decided here is carried out by claims.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate, pairwise
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from carpool.states import ServiceClass

SHARES: Final = 10_000
"""Into how many buckets the traffic is cut; a request's bucket is a hash of its body."""
ALL_SHARES: Final = (0, SHARES)
HURRIED: Final = SHARES
"""The bucket of what a backend that gathers has left to live calls: behind all of the traffic's."""
ClassName = Literal["interactive", "flex", "batch"]
MAX_NAME_LENGTH = 256
MAX_LEGS = 64
MAX_TEAMS = 256
TEXT = r"\A[^\x00\ud800-\udfff]*\Z"
"""What Postgres can keep."""
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH, pattern=TEXT)]
MAX_SECONDS = 10 * 365 * 86400
MAX_DOLLARS = 1e9
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]


class RouteError(ValueError):
    """A route that cannot be; ``param`` is the path of what is wrong in it."""

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(reason)
        self.param = param


class Leg(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A backend that may answer, the model's name there, and conditions; None is no condition."""

    backend: Name
    upstream: Name | None = None
    """None is the name that the client asked for."""
    classes: Annotated[tuple[ClassName, ...], Meta(min_length=1)] | None = None
    teams: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_TEAMS)] | None = None
    share: Annotated[float, Meta(gt=0, le=100)] | None = None
    """Of the traffic, in percent; stable by request."""
    after_seconds: Seconds | None = None
    """For requests that have waited so long."""
    left_seconds: Annotated[float, Meta(gt=0, le=MAX_SECONDS)] | None = None
    """For requests with so much time left before their deadline, or less."""
    max_price: Annotated[float, Meta(ge=0, le=MAX_DOLLARS)] | None = None
    """While a million output tokens cost no more there, in dollars."""

    @property
    def timed(self) -> bool:
        """Whether it opens with time."""
        return self.after_seconds is not None or self.left_seconds is not None

    def serves(self, service_class: ServiceClass) -> bool:
        """Whether its class fits."""
        return self.classes is None or service_class.name.lower() in self.classes


class Route(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The legs of a model, or the model whose route it shares."""

    legs: Annotated[tuple[Leg, ...], Meta(max_length=MAX_LEGS)] = ()
    alias: Name | None = None
    cache_seconds: Seconds | None = None
    """How long an answer may be given again to an identical request; None is never."""

    @property
    def shared(self) -> bool:
        """Whether it cuts the traffic into shares."""
        return any(leg.share is not None for leg in self.legs)


class Kind(Enum):
    """Which rows a cell is about, and in which order they are claimed."""

    WHOLE = "whole"
    """Those without a share, by age or, of the batch class, by prefix."""
    SHARE = "share"
    """Those of a range of shares, in a walk over it."""
    AFTER = "after"
    """Those that have waited for so many seconds, by age."""
    LEFT = "left"
    """Those of batches with so many seconds left, or fewer, by age."""
    DUE = "due"
    """Those with a deadline of their own in so many seconds, or fewer, the nearest first."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """What a backend may claim: the rows of a model, class, teams and one more range."""

    model: str
    upstream: str
    service_class: ServiceClass
    kind: Kind
    teams: frozenset[str] | None
    """None is all."""
    but_teams: frozenset[str] = frozenset()
    shares: tuple[int, int] = ALL_SHARES
    """From, and up to but without."""
    of_shares: bool = False
    """Of a cell by age: whether it is about the rows that have a share, or those without."""
    seconds: float = 0.0

    def takes(self, team: str) -> bool:
        """Whether a team's rows are among them."""
        return (self.teams is None or team in self.teams) and team not in self.but_teams


Priced = Callable[[Leg], bool]
"""Whether a leg's price condition holds now."""


def check(
    model: str,
    route: Route,
    *,
    backends: Collection[str],
    patient: Collection[str] = (),
    routes: Mapping[str, Route],
) -> None:
    """Raise RouteError where a model cannot have this route beside the other routes.

    ``patient`` are the backends that gather what waits and take their time.
    """
    if not 0 < len(model) <= MAX_NAME_LENGTH or re.match(TEXT, model) is None:
        raise RouteError(
            f"A model's name is 1 to {MAX_NAME_LENGTH} characters of UTF-8, without NUL.", "model"
        )
    if len(route.legs) > MAX_LEGS:
        raise RouteError(f"A route has {MAX_LEGS} legs at most.", "legs")
    if route.alias is not None:
        _check_alias(model, route, routes)
        return
    if not route.legs:
        raise RouteError(f"The route of '{model}' leads nowhere: it has no legs.", "legs")
    for place, leg in enumerate(route.legs):
        where = f"legs[{place}]"
        if leg.backend not in backends:
            known = ", ".join(sorted(backends)) or "none"
            raise RouteError(
                f"There is no backend '{leg.backend}'; there is: {known}.", f"{where}.backend"
            )
        if leg.after_seconds is not None and leg.left_seconds is not None:
            raise RouteError("A leg has one time condition at most.", f"{where}.left_seconds")
        if leg.timed and leg.backend in patient:
            raise RouteError(
                f"'{leg.backend}' gathers what waits: a leg to it has no time condition.",
                f"{where}.{'after' if leg.after_seconds is not None else 'left'}_seconds",
            )
        if leg.timed and leg.share is not None:
            raise RouteError(
                "A leg with a time condition has no share of the traffic.", f"{where}.share"
            )
    total = sum(leg.share or 0 for leg in route.legs)
    cut = round(total * SHARES / 100)
    if cut > SHARES or (cut < SHARES and all(leg.share is not None for leg in route.legs)):
        rest = "." if cut > SHARES else ", and no leg takes the rest."
        raise RouteError(f"The shares of the legs come to {total:g} %{rest}", "legs")


def _check_alias(model: str, route: Route, routes: Mapping[str, Route]) -> None:
    if route.legs:
        raise RouteError("A route has either legs or an alias.", "alias")
    seen = [model]
    name = route.alias
    while name is not None:
        if name in seen:
            raise RouteError(f"The aliases form a cycle: {' -> '.join([*seen, name])}.", "alias")
        if name not in routes:
            raise RouteError(f"There is no route of a model '{name}'.", "alias")
        seen.append(name)
        name = routes[name].alias


def resolved(model: str, routes: Mapping[str, Route]) -> Route:
    """A model's route with the legs of the one that it shares; raises KeyError for none."""
    route = routes[model]
    target = model
    while routes[target].alias is not None:
        target = routes[target].alias or target
    legs = tuple(
        leg if leg.upstream is not None else msgspec.structs.replace(leg, upstream=target)
        for leg in routes[target].legs
    )
    return msgspec.structs.replace(route, legs=legs, alias=None)


def cells(
    model: str,
    legs: Sequence[Leg],
    backend: str,
    *,
    live: Collection[str],
    priced: Priced = lambda leg: True,
    patience: Mapping[str, float] | None = None,
) -> list[Cell]:
    """What a backend, itself taken as up, may claim of a model now, given which others are up.

    ``patience`` names the backends that take their time, and below how many seconds left they
    leave what has a deadline to the legs behind them, like all that is `HURRIED`; interactive
    requests they always leave.
    """
    slow = patience or {}
    legs_with_shares = [
        (leg, shares)
        for leg, shares in zip(legs, _ranges(legs), strict=True)
        if leg.max_price is None or priced(leg)
    ]
    found: list[Cell] = []
    for place, (leg, shares) in enumerate(legs_with_shares):
        if leg.backend != backend:
            continue
        for service_class in ServiceClass:
            if not leg.serves(service_class):
                continue
            before = [
                (other, taken)
                for other, taken in legs_with_shares[:place]
                if other.serves(service_class)
                and not other.timed
                and not (service_class is ServiceClass.INTERACTIVE and other.backend in slow)
            ]
            up = [(other, taken) for other, taken in before if other.backend in live]
            if leg.timed and (up or not before):
                found += _timed(model, leg, service_class)
            else:
                found += _untimed(model, leg, shares, service_class, up)
                waits = [slow[other.backend] for other, _ in up if other.backend in slow]
                if waits:
                    hurried = msgspec.structs.replace(leg, left_seconds=max(waits))
                    quick = [other for other in up if other[0].backend not in slow]
                    its = _untimed(model, leg, shares, service_class, quick)
                    found += _left_over(model, hurried, service_class, its)
    return found


def upstreams(
    legs: Sequence[Leg],
    backend: str,
    *,
    service_class: ServiceClass,
    team: str,
    share: int | None,
) -> set[str | None]:
    """The names at a backend under which the legs of a model may lead a request there.

    Whatever the time, the prices and which backends are up; more than one where several legs fit.
    """
    bucket = SHARES - 1 if share is None else min(share, SHARES - 1)
    return {
        leg.upstream
        for leg, shares in zip(legs, _ranges(legs), strict=True)
        if leg.backend == backend
        and leg.serves(service_class)
        and (leg.teams is None or team in leg.teams)
        and (shares is None or shares[0] <= bucket < shares[1])
    }


def _timed(model: str, leg: Leg, service_class: ServiceClass) -> Iterable[Cell]:
    if leg.after_seconds is not None:
        kind = Kind.AFTER
    else:
        kind = Kind.LEFT if service_class is ServiceClass.BATCH else Kind.DUE
    # Deadlines have one index, ages have two.
    for of_shares in (False,) if kind is Kind.DUE else (False, True):
        yield Cell(
            model=model,
            upstream=leg.upstream or model,
            service_class=service_class,
            kind=kind,
            teams=None if leg.teams is None else frozenset(leg.teams),
            seconds=leg.after_seconds or leg.left_seconds or 0.0,
            of_shares=of_shares,
        )


def _untimed(
    model: str,
    leg: Leg,
    shares: tuple[int, int] | None,
    service_class: ServiceClass,
    up: Sequence[tuple[Leg, tuple[int, int] | None]],
) -> Iterable[Cell]:
    """The rows that fit the leg and no leg before it that is up, for each team that is named."""
    named = frozenset(team for other in (leg, *(o for o, _ in up)) for team in other.teams or ())
    every = None if leg.teams is not None else ""
    for team in (*sorted(named), every):
        if team is None or (leg.teams is not None and team not in leg.teams):
            continue
        taken = [
            taken or ALL_SHARES
            for other, taken in up
            if other.teams is None or (team and team in other.teams)
        ]
        teams = frozenset({team}) if team else None
        but_teams = frozenset() if team else named
        common = {
            "model": model,
            "upstream": leg.upstream or model,
            "service_class": service_class,
            "teams": teams,
            "but_teams": but_teams,
        }
        for low, high in _without(shares or ALL_SHARES, taken):
            last = low < SHARES <= high
            free = (low, HURRIED + 1 if last else high)
            yield Cell(kind=Kind.SHARE, shares=free, **common)  # type: ignore[arg-type]
            # What came before the route cut shares goes with the last of them.
            if last:
                yield Cell(kind=Kind.WHOLE, **common)  # type: ignore[arg-type]


def _left_over(
    model: str, leg: Leg, service_class: ServiceClass, its: Iterable[Cell]
) -> Iterable[Cell]:
    """What the backends before a leg gather none of, because no way of theirs is in time.

    Of the teams alone of which some would be the leg's, were those not there: what a quick backend
    before it takes is not left to it.
    """
    all_hurried = Cell(
        model=model,
        upstream=leg.upstream or model,
        service_class=service_class,
        kind=Kind.SHARE,
        teams=None,
        shares=(HURRIED, HURRIED + 1),
    )
    for teams, but_teams in dict.fromkeys((cell.teams, cell.but_teams) for cell in its):
        for cell in (*_timed(model, leg, service_class), all_hurried):
            yield replace(cell, teams=teams, but_teams=but_teams)


def _ranges(legs: Sequence[Leg]) -> list[tuple[int, int] | None]:
    """The buckets of each leg: one after the other, in the legs' order; None for no share."""
    ends = [round(end * SHARES / 100) for end in accumulate((leg.share or 0) for leg in legs)]
    return [
        (low, high) if leg.share is not None else None
        for leg, (low, high) in zip(legs, pairwise([0, *ends]), strict=True)
    ]


def _without(shares: tuple[int, int], taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of a range when others are taken out of it."""
    low, high = shares
    free = []
    for begin, end in sorted(taken):
        if begin > low:
            free.append((low, min(begin, high)))
        low = max(low, end)
        if low >= high:
            break
    if low < high:
        free.append((low, high))
    return [(begin, end) for begin, end in free if begin < end]


CLASS_NAMES: Final = get_args(ClassName)
