"""Who may administer Carpool: whoever asks with an admin's key."""

from starlette.requests import Request

from api.services import Services
from carpool.errors import Forbidden
from db.keys import Identity


async def admin_of(request: Request) -> Identity:
    """The identity of an admin's key; raises Forbidden for any other, Unauthorized for none."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    if not identity.admin:
        raise Forbidden("This needs an admin's key: `carpool keys create --admin` makes one.")
    return identity
