"""`/admin/v1/teams`: the teams there are."""

from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.responses import listing
from api.services import Services
from db.keys import list_teams


async def list_all(request: Request) -> Response:
    """``GET /admin/v1/teams``: by their names, with how many keys each has that hold."""
    await admin_of(request)
    services: Services = request.app.state.services
    return listing(
        [
            {
                "object": "team",
                "id": team.name,
                "keys": team.keys,
                "created_at": team.created_at.timestamp(),
            }
            for team in await list_teams(services.database)
        ],
        has_more=False,
    )
