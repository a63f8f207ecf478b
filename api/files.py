"""`/v1/files`: uploaded, listed, shown, deleted, and read back."""

import re
from contextlib import aclosing
from typing import Any
from urllib.parse import quote
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.bodies import declared_bytes, pieces
from api.file_upload import FileUpload
from api.multipart import Form
from api.patience import Patience
from api.query import limit_of
from api.responses import JSON, listing
from api.services import Services
from carpool.errors import FileMissing, InvalidRequest, NotFound, StoreAway
from carpool.ids import FILE_PREFIX, parse_public_id, public_id
from carpool.log import cause
from db.files import FileView, delete_file, file_key, find_file, list_files
from db.keys import Identity

MAX_PAGE = 10_000
FORM_MARGIN_BYTES = 200_000
"""What a form may have beside its file."""
_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")
log = structlog.get_logger()


async def create(request: Request) -> Response:
    """``POST /v1/files``: a form with ``file`` and ``purpose``, streamed into the store."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    settings = services.settings
    async with FileUpload(
        services,
        identity,
        limit_bytes=settings.max_file_bytes,
        declared_bytes=declared_bytes(request) - FORM_MARGIN_BYTES,
    ) as upload:
        form = Form(
            request.headers.get("content-type", ""),
            file_field="file",
            begin=upload.begin,
            write=upload.write,
        )
        body = pieces(
            request,
            limit_bytes=settings.max_file_bytes + FORM_MARGIN_BYTES,
            stall_seconds=settings.stall_seconds,
        )
        identifier = await upload.finish(await form.read(body))
    return JSON(file_object(await _seen(services, identity, identifier)))


async def retrieve(request: Request) -> Response:
    """``GET /v1/files/{id}``."""
    services, identity, identifier = await _addressed(request)
    return JSON(file_object(await _seen(services, identity, identifier)))


async def list_all(request: Request) -> Response:
    """``GET /v1/files?purpose=&after=&limit=&order=``: newest first unless ``order=asc``."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    query = request.query_params
    limit = limit_of(query, most=MAX_PAGE, default=MAX_PAGE)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Invalid value for 'order': expected asc or desc.", param="order")
    after, purpose = query.get("after"), query.get("purpose")
    found = await list_files(
        services.database,
        team_id=identity.team_id,
        purpose=None if purpose is None else purpose.replace("\0", ""),
        after=None if after is None else parse_public_id(FILE_PREFIX, after),
        limit=limit + 1,
        oldest_first=order == "asc",
    )
    data = [file_object(seen) for seen in found[:limit]]
    return listing(data, has_more=len(found) > limit)


async def delete(request: Request) -> Response:
    """``DELETE /v1/files/{id}``: gone at once; its bytes when no open batch reads them."""
    services, identity, identifier = await _addressed(request)
    await _seen(services, identity, identifier)
    await delete_file(services.database, identifier, team_id=identity.team_id)
    name = public_id(FILE_PREFIX, identifier)
    return JSON({"id": name, "object": "file", "deleted": True})


async def content(request: Request) -> Response:
    """``GET /v1/files/{id}/content``, or a ``Range`` of it."""
    services, identity, identifier = await _addressed(request)
    return content_of(request, await _seen(services, identity, identifier))


def content_of(request: Request, seen: FileView) -> Response:
    """A file's bytes as an attachment, or the ``Range`` of them that is asked for."""
    services: Services = request.app.state.services
    headers = {
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename*=UTF-8''{quote(seen.filename, safe='')}",
    }
    part = _range(request.headers.get("range"), seen.bytes)
    if part is None:
        return Content(services, seen, 0, seen.bytes, 200, headers)
    first, end = part
    if first >= end:
        headers["content-range"] = f"bytes */{seen.bytes}"
        error = InvalidRequest("The range lies outside of the file.", code="invalid_range")
        return JSON(error.body(), 416, headers)
    headers["content-range"] = f"bytes {first}-{end - 1}/{seen.bytes}"
    return Content(services, seen, first, end, 206, headers)


class Content(Response):
    """A part of a file, streamed; a client that takes nothing for a while is let go."""

    media_type = "application/octet-stream"

    def __init__(
        self,
        services: Services,
        seen: FileView,
        first: int,
        end: int,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, status, headers | {"content-length": str(end - first)})
        self._services = services
        self._key = file_key(seen.id)
        self._first = first
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stall_seconds = self._services.settings.stall_seconds
        found = self._services.store.read(self._key, self._first, self._end)
        async with aclosing(found):
            # Before the head is sent: what is not there, or cannot be reached, has a status.
            piece = await anext(found, b"")
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            try:
                while piece:
                    async with Patience(stall_seconds):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await anext(found, b"")
            except (TimeoutError, FileMissing, StoreAway) as error:
                log.warning("content_cut_off", file=self._key, error=cause(error))
                return  # short of its length, so that the connection is closed
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def file_object(seen: FileView) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": public_id(FILE_PREFIX, seen.id),
        "object": "file",
        "bytes": seen.bytes,
        "created_at": int(seen.created_at.timestamp()),
        "expires_at": None if seen.expires_at is None else int(seen.expires_at.timestamp()),
        "filename": seen.filename,
        "purpose": seen.purpose,
        "status": "processed",
        "status_details": None,
    }


def _range(text: str | None, size: int) -> tuple[int, int] | None:
    """First and end of the one range that is asked for; None for all, as RFC 9110 has it."""
    match = None if text is None else _RANGE.fullmatch(text.strip())
    if match is None or not (match["first"] or match["last"]):
        return None
    if not match["first"]:
        return max(0, size - int(match["last"])), size
    first = int(match["first"])
    last = int(match["last"]) if match["last"] else size - 1
    if match["last"] and last < first:
        return None
    return first, min(last + 1, size)


async def _addressed(request: Request) -> tuple[Services, Identity, UUID]:
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    return services, identity, parse_public_id(FILE_PREFIX, request.path_params["id"])


async def _seen(services: Services, identity: Identity, identifier: UUID) -> FileView:
    seen = await find_file(services.database, identifier, team_id=identity.team_id)
    if seen is None:
        name = public_id(FILE_PREFIX, identifier)
        raise NotFound(f"No such File object: {name}", param="id")
    return seen
