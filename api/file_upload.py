"""A file on its way in: from the connection straight into the store, noted before and after."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from api.bodies import too_large
from api.incoming import Incoming
from api.services import Services
from carpool.errors import InvalidRequest
from carpool.ids import new_id
from carpool.lines import Line, Lines
from db.files import abandon_file, begin_file, file_key, finish_file
from db.keys import Identity

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
BATCH = "batch"
BATCH_LIFE = timedelta(days=30)
MIN_LIFE_SECONDS = 3600
MAX_LIFE_SECONDS = 2_592_000
MAX_TEXT_LENGTH = 255


class FileUpload(Incoming):
    """One file; `begin`, `write`, then `finish`, within the context, which else discards it."""

    def __init__(
        self,
        services: Services,
        identity: Identity,
        *,
        limit_bytes: int,
        declared_bytes: int | None = None,
    ) -> None:
        """``declared_bytes``: as many as will come at least, where that is known."""
        super().__init__(services, limit_bytes=limit_bytes)
        self._declared = declared_bytes or 0
        self._identity = identity
        self._lines = Lines(limit_bytes=services.settings.max_body_bytes)
        self._first_line: bytes | None = None
        self._blank = True

    async def begin(self, filename: str, fields: Mapping[str, str]) -> None:
        """Open it; ``fields`` are those known so far."""
        purpose = fields.get("purpose")
        if purpose is not None:
            self.limit_bytes = self._limit_of(check_purpose(purpose))
            if self._declared > self.limit_bytes:
                raise too_large(self.limit_bytes)
        self.id = new_id()
        await begin_file(
            self._services.database,
            identifier=self.id,
            team_id=self._identity.team_id,
            key_id=self._identity.key_id,
            purpose=purpose or "",
            filename=storable(filename) or "upload",
            writer=self._services.incarnation,
            expires_at=None,
        )
        await self._open(file_key(self.id))

    async def write(self, data: bytes) -> None:
        """Take bytes; raises BodyTooLarge."""
        if self._first_line is None:
            # Millions of blank lines are not split one by one.
            self._blank = self._blank and data.isspace()
            if not self._blank:
                self._look_for_first_line(self._lines.feed(data))
        await super().write(data)

    async def seal(self, purpose: str) -> None:
        """Let the store have it, if it can be a file of this purpose; raises InvalidRequest."""
        limit = self._limit_of(purpose)
        if self.size > limit:
            raise too_large(limit)
        if purpose == BATCH:
            self._look_for_first_line(self._lines.finish())
            self._check_batch()
        await self.close()

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
        expires_at = ends_at(purpose, asked_life_seconds(fields))
        await self.seal(purpose)
        finished = await finish_file(
            self._services.database,
            self.id,
            size=self.size,
            writer=self._services.incarnation,
            purpose=purpose,
            expires_at=expires_at,
        )
        if not finished:
            raise await self._taken_for_leftover(file_key(self.id))
        self.keep()
        return self.id

    async def _abandon(self, identifier: UUID) -> None:
        await abandon_file(self._services.database, identifier, writer=self._services.incarnation)

    def _limit_of(self, purpose: str) -> int:
        if purpose == BATCH:
            return min(self.limit_bytes, self._services.settings.max_batch_file_bytes)
        return self.limit_bytes

    def _look_for_first_line(self, lines: list[Line]) -> None:
        if self._first_line is None and lines:
            self._first_line = lines[0].text

    def _check_batch(self) -> None:
        try:
            first = msgspec.json.decode(self._first_line or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            first = None
        if not isinstance(first, dict):
            what = "is empty" if self._first_line is None else "does not begin with a JSON object"
            raise InvalidRequest(
                f"Invalid file format for Batch API: the file {what}. Must be .jsonl",
                param="file",
                code="invalid_file_format",
            )


def storable(text: str) -> str:
    """A client's text as Postgres takes it, and of a length that lists can show."""
    return text.replace("\0", "").encode(errors="replace").decode()[:MAX_TEXT_LENGTH]


def check_purpose(purpose: str) -> str:
    """A purpose that clients may give; raises InvalidRequest."""
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"'{purpose[:40]}' is not one of {list(PURPOSES)} - 'purpose'",
            param="purpose",
            code="invalid_value",
        )
    return purpose


def ends_at(purpose: str, life_seconds: int | None) -> datetime | None:
    """When a file ends that is made now, if it does."""
    if life_seconds is not None:
        return datetime.now(UTC) + timedelta(seconds=life_seconds)
    return datetime.now(UTC) + BATCH_LIFE if purpose == BATCH else None


def asked_life_seconds(fields: Mapping[str, str]) -> int | None:
    """``expires_after[anchor]`` and ``expires_after[seconds]`` of a form; raises InvalidRequest."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "Invalid value for 'expires_after.anchor': expected 'created_at'.",
            param="expires_after.anchor",
            code="invalid_value",
        )
    return _life_seconds(seconds or "")


def _life_seconds(text: str) -> int:
    if text.isdecimal() and len(text) < 9 and MIN_LIFE_SECONDS <= int(text) <= MAX_LIFE_SECONDS:
        return int(text)
    raise InvalidRequest(
        "Invalid value for 'expires_after.seconds': expected an integer from "
        f"{MIN_LIFE_SECONDS} to {MAX_LIFE_SECONDS}.",
        param="expires_after.seconds",
        code="invalid_value",
    )
