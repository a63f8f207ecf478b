"""`/admin/v1/depths` and `/admin/v1/activity`: how deep the queue was, and how much was done."""

from enum import StrEnum
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.responses import JSON
from api.services import Services
from carpool.errors import InvalidRequest
from db.activity import ActivityBy, DepthBy, Window, activity_history, depth_history

Choice = TypeVar("Choice", bound=StrEnum)


async def depths(request: Request) -> Response:
    """``GET /admin/v1/depths?window=1h|24h&by=model|class|team``."""
    await admin_of(request)
    services: Services = request.app.state.services
    window = _choice(request, "window", Window, Window.HOUR)
    by = _choice(request, "by", DepthBy, DepthBy.MODEL)
    found = await depth_history(services.database, window, by)
    return JSON(
        {
            "object": "depths",
            "window": window,
            "by": by,
            "step_seconds": window.step_seconds,
            "at": found.at,
            "series": found.series,
            "oldest_seconds": found.oldest,
        }
    )


async def activity(request: Request) -> Response:
    """``GET /admin/v1/activity?window=1h|24h&by=model|team|backend``."""
    await admin_of(request)
    services: Services = request.app.state.services
    window = _choice(request, "window", Window, Window.HOUR)
    by = _choice(request, "by", ActivityBy, ActivityBy.MODEL)
    found = await activity_history(services.database, window, by)
    return JSON(
        {
            "object": "activity",
            "window": window,
            "by": by,
            "step_seconds": window.step_seconds,
            "at": found.at,
            "series": found.series,
        }
    )


def _choice(request: Request, name: str, known: type[Choice], default: Choice) -> Choice:
    try:
        return known(request.query_params.get(name, default))
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected one of {', '.join(known)}.",
            param=name,
            code="invalid_value",
        ) from None
