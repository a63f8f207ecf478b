"""`/v1/uploads`: files that come in parts."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from api.bodies import pieces, read_body
from api.file_upload import FileUpload, ends_at, storable
from api.files import FORM_MARGIN_BYTES, file_object
from api.incoming import Incoming
from api.multipart import Form
from api.responses import JSON
from api.services import Services
from api.upload_body import CompleteBody, read_completion, read_upload
from carpool.errors import FileMissing, InvalidRequest, NotFound, Unavailable
from carpool.ids import new_id, parse_public_id, public_id
from carpool.states import UploadState
from db.files import find_file
from db.keys import Identity
from db.uploads import (
    UploadView,
    abandon_part,
    begin_part,
    begin_upload,
    cancel_upload,
    complete_upload,
    find_upload,
    finish_part,
    part_key,
    ready_parts,
)

UPLOAD_PREFIX = "upload_"
PART_PREFIX = "part_"
LIFE_SECONDS = 3600.0
"""Of an upload that is not completed."""


async def create(request: Request) -> Response:
    """``POST /v1/uploads``: what the file will be, and how large."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    body = read_upload(await _body(services, request), services.settings)
    identifier = new_id()
    await begin_upload(
        services.database,
        identifier=identifier,
        team_id=identity.team_id,
        key_id=identity.key_id,
        purpose=body.purpose,
        filename=storable(body.filename) or "upload",
        mime_type=storable(body.mime_type),
        size=body.bytes,
        life_seconds=LIFE_SECONDS,
        file_expires_seconds=None if body.expires_after is None else body.expires_after.seconds,
    )
    return await _shown(services, identity, identifier)


async def add_part(request: Request) -> Response:
    """``POST /v1/uploads/{id}/parts``: a form with ``data``, streamed into the store."""
    services, identity, identifier = await _addressed(request)
    settings = services.settings
    _check_pending(await _seen(services, identity, identifier))
    async with PartUpload(services, identifier) as part:
        form = Form(
            request.headers.get("content-type", ""),
            file_field="data",
            begin=part.begin,
            write=part.write,
        )
        body = pieces(
            request,
            limit_bytes=settings.max_part_bytes + FORM_MARGIN_BYTES,
            stall_seconds=settings.stall_seconds,
        )
        await form.read(body)
        return JSON(await part.finish())


async def complete(request: Request) -> Response:
    """``POST /v1/uploads/{id}/complete``: the parts become a file; asked again, the same one."""
    services, identity, identifier = await _addressed(request)
    body = read_completion(await _body(services, request))
    seen = await _seen(services, identity, identifier)
    if seen.state is not UploadState.COMPLETED:
        _check_pending(seen)
        try:
            completed = await _join(services, identity, seen, body)
        except FileMissing:  # another completion or the upload's end has had its parts removed
            completed = False
        seen = await _seen(services, identity, identifier)
        if not completed and seen.state is not UploadState.COMPLETED:
            _check_pending(seen)
            raise Unavailable("The completion was cut off; try again.")
    return await _shown(services, identity, identifier)


async def cancel(request: Request) -> Response:
    """``POST /v1/uploads/{id}/cancel``; one that is cancelled already is returned as it is."""
    services, identity, identifier = await _addressed(request)
    await cancel_upload(services.database, identifier, team_id=identity.team_id)
    seen = await _seen(services, identity, identifier)
    if seen.state is not UploadState.CANCELLED:
        _check_pending(seen)
    return await _shown(services, identity, identifier)


class PartUpload(Incoming):
    """One part; `begin`, `write`, then `finish`, within the context, which else discards it."""

    def __init__(self, services: Services, upload: UUID) -> None:
        super().__init__(services, limit_bytes=services.settings.max_part_bytes)
        self._upload = upload

    async def begin(self, filename: str, fields: Mapping[str, str]) -> None:
        """Open it; its name and other fields mean nothing."""
        identifier = new_id()
        services = self._services
        begun = await begin_part(
            services.database, identifier, upload=self._upload, writer=services.incarnation
        )
        if not begun:
            raise _ended()
        self.id = identifier
        await self._open(part_key(identifier))

    async def finish(self) -> dict[str, Any]:
        """Make it a part of the upload; its object."""
        assert self.id is not None
        await self.close()
        services = self._services
        created_at = await finish_part(
            services.database, self.id, size=self.size, writer=services.incarnation
        )
        if created_at is None:
            await self._services.store.delete(part_key(self.id))
            raise _ended()
        self.keep()
        return {
            "id": public_id(PART_PREFIX, self.id),
            "object": "upload.part",
            "created_at": int(created_at.timestamp()),
            "upload_id": public_id(UPLOAD_PREFIX, self._upload),
        }

    async def _abandon(self, identifier: UUID) -> None:
        await abandon_part(self._services.database, identifier, writer=self._services.incarnation)


async def _join(
    services: Services, identity: Identity, seen: UploadView, body: CompleteBody
) -> bool:
    """Copy the parts into a file; False where the upload has ended meanwhile."""
    parts = await _chosen_parts(services, seen, body.part_ids)
    digest = hashlib.md5(usedforsecurity=False)
    async with FileUpload(
        services, identity, limit_bytes=services.settings.max_upload_bytes
    ) as file:
        await file.begin(seen.filename, {"purpose": seen.purpose})
        for part in parts:
            async with aclosing(services.store.read(part_key(part))) as found:
                async for piece in found:
                    await asyncio.to_thread(digest.update, piece)
                    await file.write(piece)
        if body.md5 is not None and digest.hexdigest() != body.md5.lower():
            raise InvalidRequest(
                f"The md5 of the parts is {digest.hexdigest()}, not {body.md5}.",
                param="md5",
                code="invalid_value",
            )
        await file.seal(seen.purpose)
        assert file.id is not None
        completed = await complete_upload(
            services.database,
            seen.id,
            file=file.id,
            size=file.size,
            writer=services.incarnation,
            expires_at=ends_at(seen.purpose, seen.file_expires_seconds),
        )
        if completed:
            file.keep()
    return completed


async def _chosen_parts(
    services: Services, seen: UploadView, part_ids: Sequence[str]
) -> list[UUID]:
    """The parts by their ids; raises InvalidRequest where they are not the file that was said."""
    sizes = await ready_parts(services.database, seen.id)
    names = {public_id(PART_PREFIX, part): part for part in sizes}
    unknown = [name for name in part_ids if name not in names]
    if unknown:
        raise _refused(f"the upload has no part '{unknown[0][:80]}'")
    if len(set(part_ids)) < len(part_ids):
        raise _refused("a part is named twice")
    chosen = [names[name] for name in part_ids]
    size = sum(sizes[part] for part in chosen)
    if size != seen.bytes:
        raise _refused(f"the parts have {size} bytes, and the upload was to have {seen.bytes}")
    return chosen


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for 'part_ids': {reason}.", param="part_ids", code="invalid_value"
    )


def _check_pending(seen: UploadView) -> None:
    if seen.state is not UploadState.PENDING:
        raise _ended(seen.state.name.lower())


def _ended(status: str = "no longer pending") -> InvalidRequest:
    return InvalidRequest(f"The upload is {status}.", param="upload_id", code="invalid_upload")


async def _shown(services: Services, identity: Identity, identifier: UUID) -> Response:
    """OpenAI's upload object, with its file where there is one."""
    seen = await _seen(services, identity, identifier)
    file = None
    if seen.file_id is not None:
        file = await find_file(services.database, seen.file_id, team_id=identity.team_id)
    return JSON(
        {
            "id": public_id(UPLOAD_PREFIX, seen.id),
            "object": "upload",
            "bytes": seen.bytes,
            "created_at": int(seen.created_at.timestamp()),
            "expires_at": int(seen.expires_at.timestamp()),
            "filename": seen.filename,
            "purpose": seen.purpose,
            "status": seen.state.name.lower(),
            "file": None if file is None else file_object(file),
        }
    )


async def _body(services: Services, request: Request) -> bytes:
    return await read_body(
        request,
        limit_bytes=services.settings.max_body_bytes,
        stall_seconds=services.settings.stall_seconds,
    )


async def _addressed(request: Request) -> tuple[Services, Identity, UUID]:
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    return services, identity, parse_public_id(UPLOAD_PREFIX, request.path_params["id"])


async def _seen(services: Services, identity: Identity, identifier: UUID) -> UploadView:
    seen = await find_upload(services.database, identifier, team_id=identity.team_id)
    if seen is None:
        name = public_id(UPLOAD_PREFIX, identifier)
        raise NotFound(f"No such Upload object: {name}", param="id")
    return seen
