"""Who is asking: keys, remembered for a few seconds."""

import time

from starlette.requests import Request

from carpool.errors import Unauthorized
from db.database import Database
from db.keys import Identity, find_key

REMEMBER_SECONDS = 5.0
"""How long a revoked key may still work when the word of its end was lost."""
MAX_REMEMBERED = 10_000
_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)


class KeyRing:
    """Looks keys up, and remembers them until they change or `REMEMBER_SECONDS` have passed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, Identity | None]] = {}

    def forget(self) -> None:
        """Look every key up anew."""
        self._known.clear()

    async def identify(self, request: Request) -> Identity:
        """The key's identity; raises Unauthorized where it is missing, unknown or revoked."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized(_MISSING)
        now = time.monotonic()
        known = self._known.get(secret)
        if known is None or now > known[0]:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            known = (now + REMEMBER_SECONDS, await find_key(self._database, secret))
            self._known[secret] = known
        if known[1] is None:
            raise Unauthorized("Incorrect API key provided, or it was revoked.")
        return known[1]
