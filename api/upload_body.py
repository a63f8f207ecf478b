"""The bodies that create and complete uploads."""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from api.file_upload import BATCH, MAX_LIFE_SECONDS, MIN_LIFE_SECONDS, check_purpose
from api.intake import refusal
from carpool.errors import InvalidRequest
from carpool.settings import Settings

Body = TypeVar("Body")


class ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_LIFE_SECONDS, le=MAX_LIFE_SECONDS)]


class UploadBody(msgspec.Struct, frozen=True, kw_only=True):
    """``bytes`` are those of the whole file."""

    bytes: Annotated[int, Meta(ge=1)]
    filename: str
    mime_type: str
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteBody(msgspec.Struct, frozen=True, kw_only=True):
    """``part_ids`` are in the file's order."""

    part_ids: Annotated[list[str], Meta(min_length=1)]
    md5: Annotated[str, Meta(pattern="^[0-9a-fA-F]{32}$")] | None = None


def read_upload(raw: bytes, settings: Settings) -> UploadBody:
    """Decode and check a body; raises InvalidRequest, with the parameter's name."""
    body = _decode(raw, UploadBody)
    check_purpose(body.purpose)
    batch = body.purpose == BATCH
    limit = settings.max_batch_file_bytes if batch else settings.max_upload_bytes
    if body.bytes > limit:
        raise InvalidRequest(
            f"Invalid value for 'bytes': a file of this purpose has at most {limit} bytes.",
            param="bytes",
            code="invalid_value",
        )
    return body


def read_completion(raw: bytes) -> CompleteBody:
    """Decode a body; raises InvalidRequest, with the parameter's name."""
    return _decode(raw, CompleteBody)


def _decode(raw: bytes, kind: type[Body]) -> Body:
    try:
        raw.decode()
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request. ({error})", code="invalid_json"
        ) from None
