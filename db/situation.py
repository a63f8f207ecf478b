"""What holds for all that waits: which backends may claim it now, and how fast they do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from carpool.prices import PriceList
from carpool.reasons import Server
from carpool.routing import Cell, Kind, Leg, Route, cells, upstreams
from carpool.states import ServiceClass
from db.database import Database
from db.prices import list_prices
from db.routes import Routing, read_routing

BACKENDS = """
select backend, sum(in_flight)::integer as in_flight, sum(capacity)::integer as capacity
from runs where ended_at is null and accepting group by backend
"""
# Levels as in db/sql/reserve.sql. Of tokens a second's refill is taken for none: how many a call
# takes is not known here.
LIMITS = """
select
    backend, upstream,
    coalesce(greatest(
        extract(epoch from paused_until - now()),
        (1 - requests_left) * 60 / requests_limit - extract(epoch from now() - observed_at),
        (tokens_limit / 60 - tokens_left) * 60 / tokens_limit
            - extract(epoch from now() - observed_at)
    ), 0)::float8 as seconds
from model_limits
"""
PAUSED = """
select distinct backend from processes
where ended_at is null and paused_at is not null and backend is not null
"""
TEAMS = "select id, name from teams"
# How many of each model end in a second, over the last minutes.
PACE = """
select
    model,
    sum(completed + failed + cancelled + expired)::float8
        / greatest(10, extract(epoch from now() - min(at)))::float8 as per_second
from activity
where span_seconds = 10 and at > now() - interval '5 minutes'
group by model
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiter:
    """Of a request that waits, what routes look at; ``team`` is its name."""

    model: str
    service_class: ServiceClass
    team: str
    share: int | None
    streamed: bool = False
    age_seconds: float = 0.0
    left_seconds: float | None = None

    @property
    def patient(self) -> bool:
        """Whether it may go to a backend that takes its time."""
        return not self.streamed and self.service_class is not ServiceClass.INTERACTIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What holds for all that waits: routes, backends, prices, teams, and the pace."""

    routing: Routing
    prices: PriceList
    backends: Mapping[str, Any]
    """Those that are up: rows of `BACKENDS`."""
    limits: Mapping[tuple[str, str], float]
    """For how many seconds no call of a backend's upstream model may start; none where 0 or less.
    """
    paused: Collection[str]
    teams: Mapping[int, str]
    pace: Mapping[str, float]
    _cells: dict[str, dict[str, list[Cell]]] = field(default_factory=dict)

    def servers(self, waiter: Waiter) -> list[Server]:
        """The backends that the route may lead a request to, in its order."""
        route = self.routing.routes.get(waiter.model)
        if route is None:
            return []
        backends = dict.fromkeys(leg.backend for leg in route.legs)
        return [self._server(b, waiter) for b in backends if self._leads(route, b, waiter)]

    def _leads(self, route: Route, backend: str, waiter: Waiter) -> bool:
        if backend in self.routing.patience and not waiter.patient:
            return False
        names = upstreams(
            route.legs,
            backend,
            service_class=waiter.service_class,
            team=waiter.team,
            share=waiter.share,
        )
        return bool(names)

    def _server(self, backend: str, waiter: Waiter) -> Server:
        opens_in = self._opens_in(backend, waiter)
        opens = min(opens_in.values(), default=None)
        limits = {
            upstream: self.limits.get((backend, upstream), 0.0)
            for upstream, seconds in opens_in.items()
            if seconds <= 0
        }
        upstream = min(limits, key=lambda name: limits[name], default=None)
        known = self.backends.get(backend)
        return Server(
            name=backend,
            up=backend in self.routing.live,
            opened=opens is not None and opens <= 0,
            opens_in_seconds=opens if opens is not None and opens > 0 else None,
            in_flight=(known and known["in_flight"]) or 0,
            capacity=(known and known["capacity"]) or 0,
            upstream=upstream,
            limited_seconds=0.0 if upstream is None else limits[upstream],
            gathers=backend in self.routing.patience,
            paused=backend in self.paused,
        )

    def _opens_in(self, backend: str, waiter: Waiter) -> dict[str, float]:
        """As which upstream models a backend that is up may claim a request, and in how many
        seconds."""
        found: dict[str, float] = {}
        for cell in self._cells_of(waiter.model).get(backend, ()):
            if (
                cell.service_class is waiter.service_class
                and cell.takes(waiter.team)
                and _of_share(cell, waiter.share)
                and (seconds := _opens_in(cell, waiter)) is not None
            ):
                found[cell.upstream] = min(seconds, found.get(cell.upstream, seconds))
        return found

    def _cells_of(self, model: str) -> dict[str, list[Cell]]:
        """What each backend of a model that is up may claim; made once."""
        if model not in self._cells:
            legs = self.routing.routes[model].legs
            self._cells[model] = {
                backend: cells(
                    model,
                    legs,
                    backend,
                    live=self.routing.live,
                    priced=partial(self._affordable, model),
                    patience=self.routing.patience,
                )
                for backend in {leg.backend for leg in legs} & self.routing.live.keys()
            }
        return self._cells[model]

    def _affordable(self, model: str, leg: Leg) -> bool:
        price = self.prices.at(leg.upstream or model, leg.backend)
        return price is not None and price.output <= Decimal(str(leg.max_price))


async def read_situation(database: Database) -> Situation:
    """Read it; its size is that of routes, backends and teams, and not of the queue."""
    async with database.transaction() as driver:
        routing = await read_routing(driver)
        priced = any(
            leg.max_price is not None for route in routing.routes.values() for leg in route.legs
        )
        return Situation(
            routing=routing,
            prices=await list_prices(driver) if priced else PriceList(),
            backends={row["backend"]: row for row in await driver.fetch(BACKENDS)},
            limits={row[:2]: row[2] for row in await driver.fetch(LIMITS)},
            paused={row["backend"] for row in await driver.fetch(PAUSED)},
            teams=dict(await driver.fetch(TEAMS)),
            pace=dict(await driver.fetch(PACE)),
        )


def _of_share(cell: Cell, share: int | None) -> bool:
    """Whether rows of a share, or without one, are a cell's."""
    match cell.kind:
        case Kind.WHOLE:
            return share is None
        case Kind.SHARE:
            return share is not None and cell.shares[0] <= share < cell.shares[1]
        case Kind.DUE:
            return True
        case _:
            return cell.of_shares == (share is not None)


def _opens_in(cell: Cell, waiter: Waiter) -> float | None:
    """After how many seconds a cell is about a request, 0 or less for now; None for never."""
    match cell.kind:
        case Kind.WHOLE | Kind.SHARE:
            return 0.0
        case Kind.AFTER:
            return cell.seconds - waiter.age_seconds
        case _:
            left = waiter.left_seconds
            return None if left is None else left - cell.seconds
