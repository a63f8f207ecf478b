"""Which models there are, and at which backends to ring for them."""

import time
from collections.abc import Sequence

from carpool.errors import NotFound
from db.database import Database
from db.routes import list_routes

REMEMBER_SECONDS = 5.0
RELOAD_SECONDS = 0.5
"""How often an unknown model may make the routes be read anew."""


class Catalog:
    """The routes, remembered until they change or `REMEMBER_SECONDS` have passed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backends: dict[str, list[str]] = {}
        self._read_at = -REMEMBER_SECONDS

    def forget(self) -> None:
        """Read the routes anew."""
        self._read_at = -REMEMBER_SECONDS

    async def models(self) -> Sequence[str]:
        """The names of all models, sorted."""
        await self._refresh(REMEMBER_SECONDS)
        return sorted(self._backends)

    async def backends(self, model: str) -> Sequence[str]:
        """The backends of a model, live or not; raises NotFound for a model without a route."""
        await self._refresh(REMEMBER_SECONDS)
        if model not in self._backends:
            await self._refresh(RELOAD_SECONDS)
        try:
            return self._backends[model]
        except KeyError:
            raise NotFound(
                f"The model `{model}` does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            ) from None

    async def _refresh(self, age_seconds: float) -> None:
        now = time.monotonic()
        if now - self._read_at < age_seconds:
            return
        self._read_at = now
        backends: dict[str, list[str]] = {}
        for route in await list_routes(self._database):
            backends.setdefault(route.model, []).append(route.backend)
        self._backends = backends
