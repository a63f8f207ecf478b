"""What the routes mean for one backend: its cells, made anew when routes or backends change."""

from carpool.routing import Cell, cells
from db.claim import team_names
from db.database import Lane
from db.routes import STATE, Routing, read_routing


class Map:
    """The routing as a backend sees it."""

    def __init__(self, backend: str) -> None:
        self.cells: list[Cell] = []
        self.teams: dict[int, str] = {}
        """The names of those teams that the cells name, by their ids."""
        self._backend = backend
        self._routing = Routing(version=0, routes={}, live=frozenset())

    @property
    def version(self) -> int:
        """The version of the routes that the cells were made of."""
        return self._routing.version

    async def read(self, lane: Lane) -> bool:
        """Look whether anything has changed; True where the cells were made anew."""
        [state] = await lane.fetch(STATE)
        live = frozenset(state["live"])
        if (state["version"], live) == (self._routing.version, self._routing.live):
            return False
        self._routing = await read_routing(lane)
        self.cells = [
            cell
            for model, route in self._routing.routes.items()
            for cell in cells(model, route.legs, self._backend, live=self._routing.live)
        ]
        named = {name for cell in self.cells for name in (*(cell.teams or ()), *cell.but_teams)}
        self.teams = await team_names(lane, named) if named else {}
        return True

    def leads_elsewhere(self, model: str) -> bool:
        """Whether another backend that is up may answer for a model."""
        route = self._routing.routes.get(model)
        return route is not None and any(
            leg.backend != self._backend and leg.backend in self._routing.live for leg in route.legs
        )
