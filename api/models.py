"""`/v1/models`: the names that clients may ask for."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.responses import JSON
from api.services import Services

OWNER = "carpool"


async def list_models(request: Request) -> Response:
    """All models that a route names."""
    services: Services = request.app.state.services
    await services.keys.identify(request)
    models = await services.catalog.models()
    return JSON({"object": "list", "data": [_model(name) for name in models]})


async def retrieve(request: Request) -> Response:
    """One model; its name may hold slashes and colons."""
    services: Services = request.app.state.services
    await services.keys.identify(request)
    name = request.path_params["model"]
    await services.catalog.route(name)
    return JSON(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}
