"""Time-ordered ids, made in the process that needs them (Postgres below 18 has no uuidv7)."""

import os
import re
import time
from datetime import UTC, datetime
from uuid import UUID

from carpool.errors import NotFound

BATCH_PREFIX = "batch_"
FILE_PREFIX = "file-"
LINE_BITS = 32
_HEXADECIMAL = re.compile(r"[0-9a-f]{32}")
_last_milliseconds = 0
_sequence = 0


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, a 12-bit counter, 62 random bits.

    Ids of one process strictly grow, also within a millisecond and when the clock steps back.
    """
    global _last_milliseconds, _sequence
    milliseconds = time.time_ns() // 1_000_000
    if milliseconds > _last_milliseconds:
        _last_milliseconds, _sequence = milliseconds, 0
    else:
        _sequence += 1
        if _sequence > 0xFFF:
            _last_milliseconds, _sequence = _last_milliseconds + 1, 0
    tail = int.from_bytes(os.urandom(8), "big") >> 2
    value = (_last_milliseconds << 80) | (0x7 << 76) | (_sequence << 64) | (0b10 << 62) | tail
    return UUID(int=value)


def new_batch_id() -> UUID:
    """A UUIDv7 whose low 32 bits are free for the numbers of the batch's lines."""
    return UUID(int=new_id().int >> LINE_BITS << LINE_BITS)


def line_id(batch: UUID, number: int) -> UUID:
    """The id of the request in a batch's line, 1-based: the same however often the file is read.

    In the order of ids the lines of a batch follow each other, with nothing between.
    """
    return UUID(int=batch.int | number)


def line_bounds(batch: UUID) -> tuple[UUID, UUID]:
    """The smallest and the largest id that a line of the batch may have."""
    return batch, UUID(int=batch.int | (1 << LINE_BITS) - 1)


def id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment: a bound on an id is a bound on its age."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76) | (0b10 << 62))


def created_at(identifier: UUID) -> datetime:
    """The moment, to the millisecond, at which a UUIDv7 was made."""
    return datetime.fromtimestamp(milliseconds_of(identifier) / 1000, UTC)


def milliseconds_of(identifier: UUID) -> int:
    """The same, in Unix milliseconds."""
    return identifier.int >> 80


def public_id(prefix: str, identifier: UUID) -> str:
    """The form that clients see: ``req_`` and 32 hexadecimal digits, say."""
    return prefix + identifier.hex


def parse_public_id(prefix: str, text: str) -> UUID:
    """The inverse of :func:`public_id`; raises :class:`NotFound`, for no such object can exist."""
    if _HEXADECIMAL.fullmatch(text.removeprefix(prefix)) and text.startswith(prefix):
        return UUID(hex=text[len(prefix) :])
    raise NotFound(f"No object with the id '{text[:80]}' exists.")
