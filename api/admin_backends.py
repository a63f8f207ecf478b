"""`/admin/v1/backends/{name}`: how much a backend has to do, for whoever scales its workers."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.responses import JSON
from api.services import Services
from carpool.errors import NotFound
from carpool.routing import Route
from db.depths import Depth


async def retrieve(request: Request) -> Response:
    """``GET``: the backend as the overview has it, and what waits that it may be routed.

    Its ``demand`` is what waits and what it holds: KEDA's metrics-api scaler reads that.
    """
    await admin_of(request)
    services: Services = request.app.state.services
    name = request.path_params["name"]
    seen = await services.watch.seen()
    view = next((found for found in seen.overview.backends if found.backend == name), None)
    if view is None:
        raise NotFound(f"There is no backend '{name[:80]}'.", param="name")
    routes = await services.catalog.routes()
    waiting = sum(depth.waiting for depth in seen.depths.rows if _leads(routes, depth, name))
    return JSON(
        {
            "object": "backend",
            **msgspec.structs.asdict(view),
            "waiting": waiting,
            "demand": waiting + view.in_flight,
        }
    )


def _leads(routes: Mapping[str, Route], depth: Depth, backend: str) -> bool:
    """Whether a route leads from there to the backend, now or later."""
    route = routes.get(depth.model)
    return route is not None and any(
        leg.backend == backend
        and leg.serves(depth.service_class)
        and (leg.teams is None or depth.team in leg.teams)
        for leg in route.legs
    )
