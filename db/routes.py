"""Routes: which backends may claim the rows of a model, and the model's name there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from carpool.settings import ModelSettings
from db.database import Database, Fetches

ENSURE = """
insert into routes (model, backend, upstream, position)
values (:model, :backend, :upstream, :position)
on conflict (model, backend) do update
set upstream = excluded.upstream, position = excluded.position
where (routes.upstream, routes.position) <> (excluded.upstream, excluded.position)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    model: str
    backend: str
    upstream: str


async def ensure_routes(database: Database, models: Mapping[str, ModelSettings]) -> None:
    """Make the routes that the settings name; others stay as they are."""
    rows = [
        {
            "model": model,
            "backend": backend,
            "upstream": settings.upstream or model,
            "position": position,
        }
        for model, settings in models.items()
        for position, backend in enumerate(settings.backends)
    ]
    if rows:
        async with database.begin() as connection:
            await connection.execute(text(ENSURE), rows)


async def discover_routes(database: Database, backend: str, models: Sequence[str]) -> None:
    """Make a route to a backend for each model that it reports and that no route names yet."""
    async with database.begin() as connection:
        await connection.execute(
            text(
                "insert into routes (model, backend, upstream) "
                "select m, :backend, m from unnest(cast(:models as text[])) m "
                "where not exists (select from routes r where r.upstream = m "
                "and r.backend = :backend) on conflict do nothing"
            ),
            {"backend": backend, "models": list(models)},
        )


async def list_routes(database: Database) -> list[Route]:
    """All routes, a model's first choice first."""
    async with database.connect() as connection:
        rows = await connection.execute(
            text("select model, backend, upstream from routes order by model, position, backend")
        )
        return [Route(**row) for row in rows.mappings()]


async def backends_of(database: Fetches, model: str) -> list[str]:
    """The backends that a route leads to from a model, live or not."""
    rows = await database.fetch("select backend from routes where model = $1", model)
    return [row["backend"] for row in rows]
