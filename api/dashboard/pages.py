"""`/dashboard`: one HTML page, its scripts and styles, and plotly.js; all else is `/admin/v1`."""

from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.dashboard.assets import (
    INDEX,
    Asset,
    assets,
    assets_version,
    plotly_script,
    plotly_version,
)
from carpool.errors import NotFound

KEEP_SECONDS: Final = 365 * 86400
KEPT: Final = f"public, max-age={KEEP_SECONDS}, immutable"
ASKED_AGAIN: Final = "no-cache"
SAFETY: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Nothing from elsewhere, nothing written into the page, and no frame around it."""


async def index(request: Request) -> Response:
    """``GET /dashboard``: the page; its browser asks each time whether there is a newer one."""
    return _answer(request, assets()[INDEX], ASKED_AGAIN)


async def to_index(request: Request) -> Response:
    """``GET /dashboard/``: the page's addresses are relative to the one without a slash."""
    return RedirectResponse("../dashboard", 308)


async def asset(request: Request) -> Response:
    """``GET /dashboard/{version}/{name}``: a script or a style.

    Under another version than this process has (pages of the one before, or of the one after,
    while API processes are replaced one by one) it is this process's, and not kept.
    """
    name = request.path_params["name"]
    found = assets().get(name)
    if found is None or name == INDEX:
        raise NotFound("The dashboard has no such file.", code="unknown_url")
    mine = request.path_params["version"] == assets_version()
    return _answer(request, found, KEPT if mine else ASKED_AGAIN)


async def plotly(request: Request) -> Response:
    """``GET /dashboard/plotly.js?v=VERSION``: what draws the charts."""
    script = await run_in_threadpool(plotly_script)
    mine = request.query_params.get("v") == plotly_version()
    return _answer(request, script, KEPT if mine else ASKED_AGAIN)


def _answer(request: Request, found: Asset, cache_control: str) -> Response:
    headers = SAFETY | {
        "cache-control": cache_control,
        "etag": found.tag,
        "vary": "accept-encoding",
    }
    if _knows(request, found.tag):
        return Response(status_code=304, headers=headers)
    content = found.content
    if _takes_gzip(request):
        content = found.packed
        headers["content-encoding"] = "gzip"
    return Response(content, headers=headers, media_type=found.media_type)


def _knows(request: Request, tag: str) -> bool:
    """Whether the client holds it, by the weak comparison of RFC 9110, section 8.8.3.2."""
    known = request.headers.get("if-none-match", "").split(",")
    return any(one.strip().removeprefix("W/") in (tag.removeprefix("W/"), "*") for one in known)


def _takes_gzip(request: Request) -> bool:
    for offer in request.headers.get("accept-encoding", "").split(","):
        coding, _, quality = offer.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return quality.strip("0.") != "" or not quality
    return False
