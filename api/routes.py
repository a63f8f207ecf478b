"""`/admin/v1/routes`: which backends answer a model, seen and changed while all runs."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.bodies import read_body
from api.intake import refusal
from api.query import limit_of
from api.responses import JSON, listing
from api.services import Services
from carpool.errors import InvalidRequest, NotFound
from carpool.notices import CHANGED_CHANNEL
from carpool.routing import Route, RouteError
from carpool.settings import patient_of
from db.keys import Identity
from db.routes import Change, delete_route, list_routes, route_changes, set_route

MAX_CHANGES = 1000


async def list_all(request: Request) -> Response:
    """``GET /admin/v1/routes``: all routes, by their models' names."""
    await admin_of(request)
    services: Services = request.app.state.services
    found = await list_routes(services.database)
    return JSON({"object": "list", "data": [_object(model, r) for model, r in found.items()]})


async def retrieve(request: Request) -> Response:
    """``GET /admin/v1/routes/{model}``."""
    await admin_of(request)
    services: Services = request.app.state.services
    model = request.path_params["model"]
    found = await list_routes(services.database)
    if model not in found:
        raise _missing(model)
    return JSON(_object(model, found[model]))


async def put(request: Request) -> Response:
    """``PUT /admin/v1/routes/{model}``: a body of ``legs`` or ``alias``; the next claim follows."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    model = request.path_params["model"]
    raw = await read_body(
        request,
        limit_bytes=services.settings.max_body_bytes,
        stall_seconds=services.settings.stall_seconds,
    )
    route = _decode(raw)
    try:
        await set_route(
            services.database,
            model,
            route,
            actor=_actor(identity),
            backends=services.settings.backends,
            patient=patient_of(services.settings.backends),
        )
    except RouteError as error:
        raise InvalidRequest(str(error), param=error.param, code="invalid_route") from None
    services.doorbell.announce(CHANGED_CHANNEL)
    services.catalog.forget()
    return JSON(_object(model, route))


async def delete(request: Request) -> Response:
    """``DELETE /admin/v1/routes/{model}``: its requests wait."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    model = request.path_params["model"]
    try:
        before = await delete_route(services.database, model, actor=_actor(identity))
    except RouteError as error:
        raise InvalidRequest(str(error), param="model", code="invalid_route") from None
    if before is None:
        raise _missing(model)
    services.doorbell.announce(CHANGED_CHANNEL)
    services.catalog.forget()
    return JSON({"model": model, "object": "route", "deleted": True})


async def changes(request: Request) -> Response:
    """``GET /admin/v1/route_changes?model=&limit=``: newest first."""
    await admin_of(request)
    services: Services = request.app.state.services
    limit = limit_of(request.query_params, most=MAX_CHANGES, default=100)
    model = request.query_params.get("model")
    if model is not None and "\0" in model:
        raise _missing(model)
    found = await route_changes(services.database, model, limit=limit)
    return listing([_change(change) for change in found], has_more=False)


def _decode(raw: bytes) -> Route:
    try:
        return msgspec.json.decode(raw, type=Route)
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from None


def _object(model: str, route: Route) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(route)
    return {"model": model, "object": "route"} | found


def _change(change: Change) -> dict[str, Any]:
    return {
        "id": f"{change.model}@{change.at.timestamp():.6f}",
        "object": "route_change",
        "at": change.at.timestamp(),
        "actor": change.actor,
        "model": change.model,
        "before": None if change.before is None else msgspec.to_builtins(change.before),
        "after": None if change.after is None else msgspec.to_builtins(change.after),
    }


def _actor(identity: Identity) -> str:
    return f"key:{identity.key_id}" + (f" ({identity.owner})" if identity.owner else "")


def _missing(model: str) -> NotFound:
    return NotFound(f"There is no route of a model '{model[:80]}'.", code="route_not_found")
