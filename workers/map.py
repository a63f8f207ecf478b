"""What the routes mean for one backend: its cells, made anew when routes or backends change."""

import math
import time
from decimal import Decimal
from functools import partial

from carpool.prices import UNKNOWN, Ledger, PriceList, cost
from carpool.prices import Usage as Tokens
from carpool.routing import Cell, Kind, Leg, cells
from carpool.states import ServiceClass
from db.claim import Claim, team_names
from db.database import Lane
from db.prices import list_prices
from db.provider_batches import ProviderBatch
from db.routes import STATE, Routing, read_routing
from workers.backends.protocol import Usage

REREAD_SECONDS = 60.0
"""How often all is read anew though nothing is known to have changed: prices hold from a date."""


class Map:
    """The routing as a backend sees it."""

    def __init__(self, backend: str, *, own: bool = False) -> None:
        """``own``: the backend is the team's, and its answers have no list price there."""
        self.cells: list[Cell] = []
        self.teams: dict[int, str] = {}
        """The names of those teams that the cells name, by their ids."""
        self._backend = backend
        self._own = own
        self._prices = PriceList()
        self._read_at = -math.inf
        self._routing = Routing(version=0, routes={}, live={})
        self._hurried: frozenset[tuple[str, ServiceClass]] = frozenset()
        self._seen: tuple[int, str] | None = None

    @property
    def version(self) -> int:
        """The version of the routes that the cells were made of."""
        return self._routing.version

    async def read(self, lane: Lane) -> bool:
        """Look whether anything has changed; True where the cells were made anew."""
        [state] = await lane.fetch(STATE)
        now = time.monotonic()
        seen = (state["version"], state["live"])
        if seen == self._seen and now - self._read_at < REREAD_SECONDS:
            return False
        routing = await read_routing(lane)
        prices = await list_prices(lane)
        made = _cells(routing, prices, self._backend)
        quick = routing.live.keys() - routing.patience.keys() - {self._backend}
        others = [cell for backend in quick for cell in _cells(routing, prices, backend)]
        named = {name for cell in made for name in (*(cell.teams or ()), *cell.but_teams)}
        teams = await team_names(lane, named) if named else {}
        # All at once: a claim that is planned meanwhile is of the version of its cells.
        self._routing, self._prices, self.cells, self.teams = routing, prices, made, teams
        self._hurried = frozenset(
            (cell.model, cell.service_class)
            for cell in others
            if cell.kind is not Kind.SHARE and cell.teams is None
        )
        self._seen, self._read_at = seen, now
        return True

    def ledger(self, claimed: Claim | ProviderBatch, usage: Usage, *, tier: float = 1.0) -> Ledger:
        """What an answer has cost and saved; ``tier`` is what a window leaves of the price."""
        quote = self._prices.quote(
            claimed.model, upstream=claimed.upstream, backend=self._backend, own=self._own
        )
        if quote.listed is None:
            return UNKNOWN
        tokens = Tokens(
            prompt=usage.prompt_tokens,
            cached=usage.cached_tokens,
            written=usage.written_tokens,
            completion=usage.completion_tokens,
        )
        return cost(tokens, quote.listed, tier=tier, own=self._own, own_price=quote.own)

    def leads_elsewhere(self, model: str) -> bool:
        """Whether another backend that is up may answer for a model."""
        route = self._routing.routes.get(model)
        return route is not None and any(
            leg.backend != self._backend and leg.backend in self._routing.live for leg in route.legs
        )

    def hurries_elsewhere(self, model: str, service_class: ServiceClass) -> bool:
        """Whether another backend that is up claims any team's late requests of a class."""
        return (model, service_class) in self._hurried


def _cells(routing: Routing, prices: PriceList, backend: str) -> list[Cell]:
    return [
        cell
        for model, route in routing.routes.items()
        for cell in cells(
            model,
            route.legs,
            backend,
            live=routing.live,
            priced=partial(_affordable, prices, model),
            patience=routing.patience,
        )
    ]


def _affordable(prices: PriceList, model: str, leg: Leg) -> bool:
    """Whether a million output tokens cost no more than the leg allows; unknown is too much."""
    price = prices.at(leg.upstream or model, leg.backend)
    return price is not None and price.output <= Decimal(str(leg.max_price))
