"""Stored answers, read back by whoever missed the notice."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from carpool.errors import ErrorEnvelope
from carpool.notices import Source
from db.database import Fetches

# Joined, and not ``id = any($1)``, for of that Postgres prunes no partitions.
BY_IDS = """
select s.id, s.epoch, s.outcome, s.status_code, s.streamed, s.body, s.backend, s.upstream
from unnest($1::uuid[]) as asked(id) join results s on s.id = asked.id
"""
LONGEST_MESSAGE = 1000
"""Of an error in no shape of OpenAI's, so many bytes are told."""
_decode_error = msgspec.json.Decoder(ErrorEnvelope).decode


class Stored(msgspec.Struct, frozen=True):
    """A result as the API delivers it; the chunks of a stream are the lines of ``body``."""

    id: UUID
    epoch: int
    outcome: int
    status_code: int
    streamed: bool
    body: bytes
    backend: str | None = None
    upstream: str | None = None

    @property
    def source(self) -> Source | None:
        """What answered, if anything did."""
        if self.backend is None or self.upstream is None:
            return None
        return Source(self.backend, self.upstream)


def chunks_of(body: bytes) -> list[bytes]:
    """The chunks of a stored stream."""
    return body.split(b"\n") if body else []


async def results_of(lane: Fetches, ids: Sequence[UUID]) -> list[Stored]:
    """The results of those requests that have one; one query for all."""
    return [Stored(*row) for row in await lane.fetch(BY_IDS, ids)]


async def result_of(database: Fetches, identifier: UUID) -> Stored | None:
    """One request's result."""
    rows = await database.fetch(BY_IDS, [identifier])
    return Stored(*rows[0]) if rows else None


def error_of(body: bytes) -> tuple[str | None, str]:
    """Code and message of a stored error; one in another shape is its own message."""
    try:
        error = _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, body[:LONGEST_MESSAGE].decode("utf-8", "replace")
    return error.code, error.message
