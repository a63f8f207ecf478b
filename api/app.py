"""The ASGI application: routes, and errors in OpenAI's shape."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import (
    admin_backends,
    admin_batches,
    admin_history,
    admin_overview,
    admin_requests,
    admin_session,
    admin_teams,
    admin_workers,
    batches,
    files,
    health,
    metrics,
    models,
    prices,
    requests,
    routes,
    savings,
    uploads,
)
from api.admin import admin_of
from api.auth import REQUEST, TEAM
from api.bodies import unread
from api.dashboard import pages
from api.inference import NOTHING, endpoint
from api.responses import REQUEST_PREFIX, error_response
from api.services import Services
from carpool.errors import (
    APIError,
    FileMissing,
    MethodNotAllowed,
    NotFound,
    StoreAway,
    Unavailable,
)
from carpool.ids import new_id, public_id
from carpool.log import cause
from carpool.states import Endpoint
from db.database import DatabaseAway

ROUTES = [
    *(Route(path, endpoint(path), methods=["POST"]) for path in Endpoint),
    Route("/v1/models", models.list_models),
    Route("/v1/models/{model:path}", models.retrieve),
    Route("/v1/files", files.create, methods=["POST"]),
    Route("/v1/files", files.list_all),
    Route("/v1/files/{id}", files.retrieve),
    Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
    Route("/v1/files/{id}/content", files.content),
    Route("/v1/uploads", uploads.create, methods=["POST"]),
    Route("/v1/uploads/{id}/parts", uploads.add_part, methods=["POST"]),
    Route("/v1/uploads/{id}/complete", uploads.complete, methods=["POST"]),
    Route("/v1/uploads/{id}/cancel", uploads.cancel, methods=["POST"]),
    Route("/v1/batches", batches.create, methods=["POST"]),
    Route("/v1/batches", batches.list_all),
    Route("/v1/batches/{id}", batches.retrieve),
    Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
    Route("/v1/batches/{id}/events", batches.events),
    Route("/v1/batches/{id}/results", batches.results),
    Route("/v1/batches/{id}/retry", batches.retry, methods=["POST"]),
    Route("/v1/requests", requests.list_requests),
    Route("/v1/requests/{id}", requests.retrieve),
    Route("/v1/requests/{id}", requests.cancel, methods=["DELETE"]),
    Route("/v1/requests/{id}/events", requests.events),
    Route("/v1/savings", savings.of_own_team),
    Route("/admin/v1/session", admin_session.create, methods=["POST"]),
    Route("/admin/v1/session", admin_session.retrieve),
    Route("/admin/v1/session", admin_session.delete, methods=["DELETE"]),
    Route("/admin/v1/overview", admin_overview.overview),
    Route("/admin/v1/events", admin_overview.events),
    Route("/admin/v1/depths", admin_history.depths),
    Route("/admin/v1/activity", admin_history.activity),
    Route("/admin/v1/teams", admin_teams.list_all),
    Route("/admin/v1/backends/{name:path}", admin_backends.retrieve),
    Route("/admin/v1/chat/completions", endpoint(Endpoint.CHAT, admin_of), methods=["POST"]),
    Route("/admin/v1/workers", admin_workers.list_all),
    Route("/admin/v1/workers/{id}", admin_workers.retrieve),
    Route("/admin/v1/workers/{id}/drain", admin_workers.drain, methods=["POST"]),
    Route("/admin/v1/workers/{id}/resume", admin_workers.resume, methods=["POST"]),
    Route("/admin/v1/batches", admin_batches.list_all),
    Route("/admin/v1/batches/{id}", admin_batches.retrieve),
    Route("/admin/v1/batches/{id}/failures", admin_batches.failures),
    Route("/admin/v1/batches/{id}/cancel", admin_batches.cancel, methods=["POST"]),
    Route("/admin/v1/batches/{id}/retry", admin_batches.retry, methods=["POST"]),
    Route("/admin/v1/batches/{id}/output", admin_batches.output),
    Route("/admin/v1/batches/{id}/error", admin_batches.error),
    Route("/admin/v1/requests", admin_requests.list_all),
    Route("/admin/v1/requests/{id}", admin_requests.retrieve),
    Route("/admin/v1/requests/{id}", admin_requests.cancel, methods=["DELETE"]),
    Route("/admin/v1/savings", savings.of_all),
    Route("/admin/v1/routes", routes.list_all),
    Route("/admin/v1/routes/{model:path}", routes.retrieve),
    Route("/admin/v1/routes/{model:path}", routes.put, methods=["PUT"]),
    Route("/admin/v1/routes/{model:path}", routes.delete, methods=["DELETE"]),
    Route("/admin/v1/route_changes", routes.changes),
    Route("/admin/v1/prices", prices.list_all),
    Route("/admin/v1/prices", prices.put, methods=["PUT"]),
    Route("/admin/v1/prices", prices.delete, methods=["DELETE"]),
    Route("/dashboard", pages.index),
    Route("/dashboard/", pages.to_index),
    Route("/dashboard/plotly.js", pages.plotly),
    Route("/dashboard/{version}/{name}", pages.asset),
    Route("/healthz", health.healthz),
    Route("/readyz", health.readyz),
    Route("/metrics", health.show_metrics),
]
log = structlog.get_logger()


def make_app(services: Services) -> ASGIApp:
    """The application over the services of this process."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={
            APIError: _api_error,
            DatabaseAway: _database_away,
            FileMissing: _file_missing,
            StoreAway: _store_away,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _bug,
        },
    )
    app.state.services = services
    return Observed(app)


class Observed:
    """Gives every answer an ``x-request-id``, and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 499

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                if not any(name == b"x-request-id" for name, _ in headers):
                    identifier = public_id(REQUEST_PREFIX, new_id())
                    headers.append((b"x-request-id", identifier.encode()))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            route = scope.get("route")
            path = route.path if route is not None else "other"
            metrics.answered(path, scope["method"], status, time.perf_counter() - began)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error_response(error, early=unread(request))


async def _database_away(request: Request, error: Exception) -> Response:
    log.warning("database_away", **_about(request), error=cause(error))
    return error_response(
        Unavailable("The database cannot be reached; try again.", retry_after_seconds=2)
    )


async def _file_missing(request: Request, error: Exception) -> Response:
    log.error("file_missing", **_about(request), key=cause(error))
    return error_response(NotFound("The file's bytes are no longer there."))


async def _store_away(request: Request, error: Exception) -> Response:
    log.warning("store_away", **_about(request), error=cause(error))
    return error_response(
        Unavailable("The file store cannot be reached; try again.", retry_after_seconds=2),
        early=unread(request),
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        response = error_response(MethodNotAllowed(f"Not allowed to {where}."))
        response.headers.update(error.headers or {})
        return response
    return error_response(NotFound(f"Invalid URL ({where}).", code="unknown_url"))


async def _client_gone(request: Request, error: Exception) -> Response:
    return NOTHING


async def _bug(request: Request, error: Exception) -> Response:
    log.error("unhandled_error", **_about(request), exc_info=error)
    return error_response(APIError("The server had an error while processing your request."))


def _about(request: Request) -> dict[str, Any]:
    """What logs tell of a request over HTTP; of its path the route, for clients fill it in."""
    route = request.scope.get("route")
    about: dict[str, Any] = {"path": "other" if route is None else route.path}
    for field in (TEAM, REQUEST):
        if field in request.scope:
            about[field] = request.scope[field]
    return about
