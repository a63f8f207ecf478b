"""Who is asking: keys, remembered for a few seconds."""

from functools import partial

from starlette.requests import Request

from api.remembered import Remembered
from carpool.errors import Unauthorized
from db.database import Database
from db.keys import Identity, find_key

REMEMBER_SECONDS = 5.0
"""How long a revoked key may still work when the word of its end was lost."""
TEAM = "team"
REQUEST = "request"
"""Under which a connection's scope holds who asks and what was taken in, for logs."""
_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)


class KeyRing:
    """Looks keys up, and remembers them until they change or `REMEMBER_SECONDS` have passed."""

    def __init__(self, database: Database) -> None:
        self._known: Remembered[str, Identity | None] = Remembered(
            partial(find_key, database), seconds=REMEMBER_SECONDS
        )
        self.forget = self._known.forget

    async def identify(self, request: Request) -> Identity:
        """The key's identity; raises Unauthorized where it is missing, unknown or revoked."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized(_MISSING)
        identity = await self._known.get(secret)
        if identity is None:
            raise Unauthorized("Incorrect API key provided, or it was revoked.")
        request.scope[TEAM] = identity.team_id
        return identity
