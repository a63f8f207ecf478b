"""A file on its way in: from the connection straight into the store, noted before and after."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from api.bodies import too_large
from api.services import Services
from carpool.errors import InvalidRequest, Unavailable
from carpool.ids import new_id
from carpool.lines import BOM
from carpool.store import Writer
from db.files import abandon_file, begin_file, file_key, finish_file
from db.keys import Identity

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
BATCH_LIFE = timedelta(days=30)
MIN_LIFE_SECONDS = 3600
MAX_LIFE_SECONDS = 2_592_000
MAX_FILENAME_LENGTH = 255


class FileUpload:
    """One file; `begin`, `write`, then `finish`, within the context, which else discards it."""

    def __init__(self, services: Services, identity: Identity) -> None:
        self.id: UUID | None = None
        self.size = 0
        self._services = services
        self._identity = identity
        self._stack = AsyncExitStack()
        self._writer: Writer | None = None
        self._limit = services.settings.max_file_bytes
        self._head: bytes | None = b""

    async def __aenter__(self) -> "FileUpload":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writer is not None and self.id is not None:
            await self._stack.__aexit__(Discarded, Discarded(), None)
            await abandon_file(self._services.database, self.id, writer=self._services.incarnation)

    async def begin(self, filename: str, fields: Mapping[str, str]) -> None:
        """Open it; ``fields`` are those known so far."""
        purpose = fields.get("purpose")
        if purpose is not None:
            self._limit = self._limit_of(check_purpose(purpose))
        self.id = new_id()
        await begin_file(
            self._services.database,
            identifier=self.id,
            team_id=self._identity.team_id,
            key_id=self._identity.key_id,
            purpose=purpose or "",
            filename=filename.replace("\0", "")[:MAX_FILENAME_LENGTH] or "upload",
            writer=self._services.incarnation,
            expires_at=None,
        )
        self._writer = await self._stack.enter_async_context(
            self._services.store.create(file_key(self.id))
        )

    async def write(self, data: bytes) -> None:
        """Take bytes; raises BodyTooLarge."""
        assert self._writer is not None
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(self._limit)
        if self._head is not None:
            self._look_at(data)
        await self._writer.write(data)

    async def finish(self, fields: Mapping[str, str]) -> UUID:
        """Make it a file; its id. Raises InvalidRequest where the fields do not allow it."""
        assert self.id is not None
        if "purpose" not in fields:
            raise InvalidRequest(
                "Missing required parameter: 'purpose'.",
                param="purpose",
                code="missing_required_parameter",
            )
        purpose = check_purpose(fields["purpose"])
        if self.size > self._limit_of(purpose):
            raise too_large(self._limit_of(purpose))
        if purpose == "batch":
            self._check_batch()
        expires_at = expiry(purpose, fields)
        await self._stack.aclose()
        self._writer = None
        finished = await finish_file(
            self._services.database,
            self.id,
            size=self.size,
            writer=self._services.incarnation,
            purpose=purpose,
            expires_at=expires_at,
        )
        if not finished:
            raise Unavailable("The file was cut off; try again.")
        return self.id

    def _limit_of(self, purpose: str) -> int:
        settings = self._services.settings
        return settings.max_batch_file_bytes if purpose == "batch" else settings.max_file_bytes

    def _look_at(self, data: bytes) -> None:
        """Keep what comes until the first line is whole, or longer than a line may be."""
        assert self._head is not None
        self._head += data[: self._services.settings.max_body_bytes]
        head = self._head.removeprefix(BOM).lstrip()
        line, newline, _ = head.partition(b"\n")
        if newline or len(head) > self._services.settings.max_body_bytes:
            self._first_line, self._head = line, None

    _first_line = b""

    def _check_batch(self) -> None:
        line = self._first_line if self._head is None else self._head.removeprefix(BOM)
        try:
            first = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            first = None
        if not isinstance(first, dict):
            what = "is empty" if not line.strip() else "does not begin with a JSON object"
            raise InvalidRequest(
                f"Invalid file format for Batch API: the file {what}. Must be .jsonl",
                param="file",
                code="invalid_file_format",
            )


class Discarded(Exception):
    """Ends the writing of an object that shall not be."""


def check_purpose(purpose: str) -> str:
    """A purpose that clients may give; raises InvalidRequest."""
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"'{purpose[:40]}' is not one of {list(PURPOSES)} - 'purpose'",
            param="purpose",
            code="invalid_value",
        )
    return purpose


def expiry(purpose: str, fields: Mapping[str, str]) -> datetime | None:
    """When a file ends, by ``expires_after[anchor]`` and ``expires_after[seconds]``."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return datetime.now(UTC) + BATCH_LIFE if purpose == "batch" else None
    if anchor != "created_at":
        raise InvalidRequest(
            "Invalid value for 'expires_after.anchor': expected 'created_at'.",
            param="expires_after.anchor",
            code="invalid_value",
        )
    return datetime.now(UTC) + timedelta(seconds=life_seconds(seconds or ""))


def life_seconds(text: str) -> int:
    """How long a file shall live; raises InvalidRequest."""
    if text.isdecimal() and len(text) < 9 and MIN_LIFE_SECONDS <= int(text) <= MAX_LIFE_SECONDS:
        return int(text)
    raise InvalidRequest(
        "Invalid value for 'expires_after.seconds': expected an integer from "
        f"{MIN_LIFE_SECONDS} to {MAX_LIFE_SECONDS}.",
        param="expires_after.seconds",
        code="invalid_value",
    )
