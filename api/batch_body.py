"""The bodies that create batches, and their refusals (COMPAT section 2)."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from api.intake import fingerprint, refusal
from carpool.errors import InvalidRequest, NotFound
from carpool.ids import FILE_PREFIX, parse_public_id
from carpool.states import ENDPOINTS, Endpoint
from carpool.windows import parse_window
from carpool.wire import MAX_METADATA_PAIRS
from db.batches import NewBatch
from db.keys import Identity

MAX_PRIORITY = 100
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
PATH = "/v1/batches"


class OutputExpiresAfter(msgspec.Struct):
    anchor: str
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class BatchBody(msgspec.Struct, kw_only=True):
    """What a client sends; ``priority`` is Carpool's own."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, Any] | None = None
    output_expires_after: OutputExpiresAfter | None = None
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0


_decode = msgspec.json.Decoder(BatchBody).decode


def read_batch(raw: bytes, identity: Identity, *, dry_run: bool) -> NewBatch:
    """Decode and check a body. Raises InvalidRequest, with the parameter's path."""
    try:
        raw.decode()
        body = _decode(raw)
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request. ({error})", code="invalid_json"
        ) from None
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"Invalid value: '{body.endpoint[:80]}'. Supported values are: "
            f"{', '.join(repr(str(known)) for known in ENDPOINTS)}.",
            param="endpoint",
            code="invalid_value",
        )
    expires = body.output_expires_after
    if expires is not None and expires.anchor != "created_at":
        raise InvalidRequest(
            "Invalid value for 'output_expires_after.anchor': expected 'created_at'.",
            param="output_expires_after.anchor",
            code="invalid_value",
        )
    window = parse_window(body.completion_window)
    return NewBatch(
        team_id=identity.team_id,
        key_id=identity.key_id,
        person=identity.owner,
        endpoint=ENDPOINTS.index(Endpoint(body.endpoint)),
        completion_window=body.completion_window,
        window_seconds=window.total_seconds(),
        input_file_id=_storable(body.input_file_id),
        input_file=_file(body.input_file_id),
        metadata=_metadata(body.metadata),
        output_expires_seconds=None if expires is None else expires.seconds,
        priority=body.priority,
        dry_run=dry_run,
        fingerprint=fingerprint(identity.team_id, PATH, raw),
    )


def _file(text: str) -> UUID | None:
    try:
        return parse_public_id(FILE_PREFIX, text)
    except NotFound:
        return None


def _storable(text: str) -> str:
    """What Postgres takes: without NUL, and of a length that can be shown."""
    return text.replace("\0", "")[:200]


def _metadata(metadata: dict[str, Any] | None) -> str | None:
    if metadata is None:
        return None
    if len(metadata) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"Invalid 'metadata': it has more than {MAX_METADATA_PAIRS} pairs.",
            param="metadata",
            code="invalid_value",
        )
    for key, value in metadata.items():
        param = f"metadata.{key[:MAX_METADATA_KEY]}"
        if not isinstance(value, str):
            raise InvalidRequest(
                f"Invalid type for '{param}': expected a string.", param=param, code="invalid_type"
            )
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise InvalidRequest(
                f"Invalid '{param}': a key has at most {MAX_METADATA_KEY} characters, a value "
                f"{MAX_METADATA_VALUE}.",
                param=param,
                code="invalid_value",
            )
    return msgspec.json.encode(metadata).decode()
