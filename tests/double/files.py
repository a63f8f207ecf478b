"""Files: uploaded input, and the output of batches."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.double.pages import page
from tests.double.refusals import Json, Refused, json_response, missing

if TYPE_CHECKING:
    from tests.double.world import World

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
FILE_BYTES = 512 * 1024 * 1024
KEPT_SECONDS = 30 * 24 * 3600
LEAST_KEPT_SECONDS = 3600
PIECE_BYTES = 64 * 1024
LIST_LIMIT = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """Immutable, as OpenAI's are."""

    id: str
    name: str
    purpose: str
    content: bytes
    created_at: int
    expires_at: int | None

    def as_json(self) -> Json:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """All files, in memory, until they are deleted or expire."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._files: dict[str, File]
        self.reset()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self._create, methods=["POST"]),
            Route("/v1/files", self._list),
            Route("/v1/files/{id}", self._get),
            Route("/v1/files/{id}", self._delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._content),
        ]

    def reset(self) -> None:
        self._files = {}

    def find(self, file_id: str) -> File | None:
        """None where it was deleted, has expired or never was."""
        file = self._files.get(file_id)
        if file is None:
            return None
        gone = file.expires_at is not None and file.expires_at <= self._world.clock.now()
        return None if gone else file

    def add(self, name: str, purpose: str, content: bytes, kept: int | None = None) -> str:
        """The id of a new file; ``kept`` are the seconds to its expiry."""
        now = int(self._world.clock.now())
        file = File(
            id=f"file-{uuid.uuid4().hex[:24]}",
            name=name,
            purpose=purpose,
            content=content,
            created_at=now,
            expires_at=None if kept is None else now + kept,
        )
        self._files[file.id] = file
        return file.id

    async def _create(self, request: Request) -> Response:
        async with request.form() as form:
            purpose, upload = form.get("purpose"), form.get("file")
            if not isinstance(purpose, str):
                raise missing("purpose")
            if not isinstance(upload, UploadFile):
                raise missing("file")
            if purpose not in PURPOSES:
                raise Refused(
                    f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'",
                    code="invalid_value",
                    param="purpose",
                )
            kept = _kept_seconds(form, purpose)
            content = await upload.read()
            name = upload.filename or "upload"
        self._check(purpose, content)
        made = self._files[self.add(name, purpose, content, kept)]
        return json_response(made.as_json())

    def _check(self, purpose: str, content: bytes) -> None:
        batch = purpose == "batch"
        most = self._world.settings.batch_file_bytes if batch else FILE_BYTES
        if len(content) > most:
            raise Refused(
                f"File is too large. Maximum file size is {most} bytes.", status=413, param="file"
            )
        if not content:
            raise Refused("File is empty.", param="file", code="empty_file")
        if batch:
            try:
                msgspec.json.decode(content.split(b"\n", 1)[0], type=dict[str, object])
            except msgspec.DecodeError:
                raise Refused(
                    "Invalid file format for Batch API. Must be .jsonl", param="file"
                ) from None

    async def _list(self, request: Request) -> Response:
        self._world.now()
        wanted = request.query_params.get("purpose")
        files = [
            file.as_json()
            for file in map(self.find, list(self._files))
            if file is not None and wanted in (None, file.purpose)
        ]
        if request.query_params.get("order", "desc") == "desc":
            files.reverse()
        return page(files, request, most=LIST_LIMIT, usual=LIST_LIMIT)

    async def _get(self, request: Request) -> Response:
        return json_response(self._asked(request).as_json())

    async def _delete(self, request: Request) -> Response:
        file = self._asked(request)
        del self._files[file.id]
        return json_response({"id": file.id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        content = self._asked(request).content
        headers = {"content-length": str(len(content))}
        return StreamingResponse(
            _pieces(content), headers=headers, media_type="application/octet-stream"
        )

    def _asked(self, request: Request) -> File:
        self._world.now()
        file = self.find(request.path_params["id"])
        if file is None:
            text = f"No such File object: {request.path_params['id']}"
            raise Refused(text, status=404, param="id")
        return file


def _kept_seconds(form: FormData, purpose: str) -> int | None:
    asked = form.get("expires_after[seconds]")
    if asked is None:
        return KEPT_SECONDS if purpose == "batch" else None
    if form.get("expires_after[anchor]") != "created_at":
        raise Refused("Invalid anchor.", code="invalid_value", param="expires_after.anchor")
    seconds = int(str(asked)) if str(asked).isdecimal() else 0
    if not LEAST_KEPT_SECONDS <= seconds <= KEPT_SECONDS:
        raise Refused(
            f"expires_after.seconds must be from {LEAST_KEPT_SECONDS} to {KEPT_SECONDS}.",
            code="invalid_value",
            param="expires_after.seconds",
        )
    return seconds


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
