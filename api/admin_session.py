"""`/admin/v1/session`: a browser trades an admin's key for a cookie that no script can read."""

from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.admin import COOKIE, admin_of, session_of
from api.bodies import read_body
from api.responses import JSON
from api.services import Services
from carpool.errors import Forbidden, InvalidRequest, Unauthorized
from db.keys import find_key
from db.sessions import Session, create_session, end_session, find_session

SESSION_SECONDS = 12 * 3600
MAX_BODY_BYTES = 10_000
log = structlog.get_logger()


class Login(msgspec.Struct, frozen=True):
    """What a login form sends."""

    key: str


async def create(request: Request) -> Response:
    """``POST {"key": …}``: begin a session; 401 for an unknown key, 403 for a team's."""
    services: Services = request.app.state.services
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("A login comes from Carpool's own page.", code="csrf")
    raw = await read_body(
        request, limit_bytes=MAX_BODY_BYTES, stall_seconds=services.settings.stall_seconds
    )
    identity = await find_key(services.database, _key(raw))
    if identity is None:
        raise Unauthorized("Incorrect API key provided, or it was revoked.")
    if not identity.admin:
        raise Forbidden("This is a team's key, and the dashboard needs an admin's.")
    made = await create_session(services.database, identity.key_id, seconds=SESSION_SECONDS)
    session = await find_session(services.database, made.cookie)
    if session is None:
        raise Unauthorized("Incorrect API key provided, or it was revoked.")
    log.info("session_begun", by=str(identity.key_id))
    answer = JSON(_object(session))
    answer.set_cookie(
        COOKIE,
        made.cookie,
        max_age=SESSION_SECONDS,
        secure=_is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return answer


async def retrieve(request: Request) -> Response:
    """``GET``: the session of the cookie, with the token that its changes must carry."""
    return JSON(_object(await session_of(request)))


async def delete(request: Request) -> Response:
    """``DELETE``: log out."""
    services: Services = request.app.state.services
    await session_of(request)
    await admin_of(request)
    await end_session(services.database, request.cookies[COOKIE])
    answer = JSON({"object": "session", "deleted": True})
    answer.delete_cookie(COOKIE, secure=_is_secure(request), httponly=True, samesite="strict")
    return answer


def _key(raw: bytes) -> str:
    try:
        return msgspec.json.decode(raw, type=Login).key.strip()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"Expected a JSON object with 'key': {error}.", param="key", code="invalid_value"
        ) from None


def _is_secure(request: Request) -> bool:
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return "https" in (forwarded, request.url.scheme)


def _object(session: Session) -> dict[str, Any]:
    identity = session.identity
    return {
        "object": "session",
        "team": session.team,
        "name": session.key_name,
        "owner": identity.owner,
        "sees_bodies": identity.sees_bodies,
        "expires_at": session.expires_at.timestamp(),
        "csrf": session.csrf,
    }
