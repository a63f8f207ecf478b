"""Which models there are, and at which backends to ring for them."""

from collections.abc import Mapping, Sequence

from api.remembered import Remembered
from carpool.errors import NotFound
from carpool.routing import Route
from db.database import Database
from db.routes import read_routing

REMEMBER_SECONDS = 5.0
RELOAD_SECONDS = 0.5
"""How often an unknown model may make the routes be read anew."""


class Catalog:
    """The routes, remembered until they change or `REMEMBER_SECONDS` have passed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._routes: Remembered[None, Mapping[str, Route]] = Remembered(
            self._read, seconds=REMEMBER_SECONDS
        )
        self.forget = self._routes.forget

    async def models(self) -> Sequence[str]:
        """The names of all models, sorted."""
        return sorted(await self._routes.get(None))

    async def routes(self) -> Mapping[str, Route]:
        """All routes by their models' names, aliases followed."""
        return await self._routes.get(None)

    async def route(self, model: str) -> Route:
        """The legs of a model, their backends live or not; raises NotFound where it has none."""
        routes = await self._routes.get(None)
        if model not in routes:
            routes = await self._routes.get(None, younger_than_seconds=RELOAD_SECONDS)
        try:
            return routes[model]
        except KeyError:
            raise NotFound(
                f"The model `{model}` does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            ) from None

    async def _read(self, key: None) -> Mapping[str, Route]:
        return (await read_routing(self._database)).routes
