"""The span of a request over HTTP, a child of the client's; those of its way begin from it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carpool import span_attributes as names
from carpool import tracing
from carpool.ids import public_id
from carpool.states import ENDPOINTS, ServiceClass
from db.submit import Submission

PATHS = ("/v1/", "/admin/v1/")
"""No probe, no scrape and no page has a trace."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
OTHER_METHOD = "_OTHER"
FAILED_STATUS = 500
"""From which on an answer is an error of the server; below, it is the client's."""


def traced(app: ASGIApp) -> ASGIApp:
    """The application itself where tracing is off."""
    return Traced(app) if tracing.on() else app


class Traced:
    """Spans around an application's answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        with tracing.span(
            method, _attributes(scope, method), kind=tracing.Kind.SERVER, parent=_parent(scope)
        ) as span:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set({names.HTTP_STATUS: status})
                    if status >= FAILED_STATUS:
                        span.fail(str(status))
                await send(message)

            try:
                await self._app(scope, receive, observed)
            finally:
                route = scope.get("route")
                if route is not None:
                    span.name(f"{method} {route.path}")
                    span.set({names.HTTP_ROUTE: route.path})


def described(submission: Submission) -> None:
    """Tell the current span which request it has taken in."""
    if tracing.on():
        endpoint = ENDPOINTS[submission.endpoint]
        tracing.current().set(
            {
                names.OPERATION: names.OPERATIONS[endpoint],
                names.REQUEST_MODEL: submission.model,
                names.REQUEST_STREAM: submission.streamed,
                names.REQUEST: public_id("req_", submission.id),
                names.TEAM: submission.team_id,
                names.CLASS: ServiceClass(submission.service_class).name.lower(),
            }
        )


def _attributes(scope: Scope, method: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {names.HTTP_METHOD: method, names.URL_SCHEME: scope["scheme"]}
    host, port = scope.get("server") or (None, None)
    if host is not None:
        found[names.SERVER_ADDRESS] = host
    if port is not None:
        found[names.SERVER_PORT] = port
    return found


def _parent(scope: Scope) -> str | None:
    """The client's traceparent; two of them are none."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    return found[0].decode("latin-1") if len(found) == 1 else None
