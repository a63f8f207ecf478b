"""Who may administer Carpool: an admin's key, or a browser's session that was begun with one."""

import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.requests import Request

from api.services import Services
from carpool.errors import Forbidden, Unauthorized
from db.keys import Identity
from db.sessions import Session, find_session

COOKIE: Final = "carpool_session"
CSRF_HEADER: Final = "x-carpool-csrf"
SAFE: Final = ("GET", "HEAD")


@dataclass(frozen=True, kw_only=True, slots=True)
class Admin:
    """Who asks, and by what: the id of a key, or a session's cookie."""

    identity: Identity
    by: UUID | str


async def admin_of(request: Request) -> Identity:
    """The identity of an admin's key, or of a session begun with one.

    Raises Forbidden for a team's key, and for a change by a cookie without its session's token;
    Unauthorized for none, or one that holds no more.
    """
    return (await asker(request)).identity


async def asker(request: Request) -> Admin:
    """The same, with what it was asked by; raises what `admin_of` does."""
    services: Services = request.app.state.services
    if "authorization" not in request.headers and COOKIE in request.cookies:
        session = await session_of(request)
        if request.method not in SAFE:
            _check_token(request, session)
        return Admin(identity=session.identity, by=request.cookies[COOKIE])
    identity = await services.keys.identify(request)
    if not identity.admin:
        raise Forbidden("This needs an admin's key: `carpool keys create --admin` makes one.")
    return Admin(identity=identity, by=identity.key_id)


async def session_of(request: Request) -> Session:
    """The session of the request's cookie; raises Unauthorized where there is none that holds."""
    services: Services = request.app.state.services
    cookie = request.cookies.get(COOKIE)
    session = None if not cookie else await find_session(services.database, cookie)
    if session is None:
        raise Unauthorized("There is no session, or it has ended; log in.", code="no_session")
    return session


def _check_token(request: Request, session: Session) -> None:
    """A page of another site can send the cookie, and knows no token."""
    given = request.headers.get(CSRF_HEADER, "")
    if not secrets.compare_digest(given.encode(), session.csrf.encode()):
        raise Forbidden(f"A change by a session needs its token in {CSRF_HEADER}.", code="csrf")
