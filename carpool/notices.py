"""What processes tell each other through Redis; all of it may be lost without harm.

A worker tells an API process of results and of a stream's chunks; anyone tells the runs of a
backend that work waits, or that some of what they hold is no longer wanted.
"""

from uuid import UUID

import msgspec


class Source(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What answers: a backend, and the model's name there."""

    backend: str
    upstream: str


class Finished(msgspec.Struct, array_like=True, tag="f", frozen=True, gc=False):
    """A result is stored. ``body`` is None where it must be read from Postgres.

    Of a stream, ``chunks`` is how many were emitted; its body is never sent.
    """

    id: UUID
    epoch: int
    outcome: int
    status_code: int
    body: bytes | None
    chunks: int = 0
    source: Source | None = None


class Delta(msgspec.Struct, array_like=True, tag="d", frozen=True, gc=False):
    """Chunks of a stream; ``offset`` counts the chunks of this epoch before them.

    The first chunks tell their source.
    """

    id: UUID
    epoch: int
    offset: int
    chunks: list[bytes]
    source: Source | None = None


class Lost(msgspec.Struct, array_like=True, tag="l", frozen=True, gc=False):
    """The run that held a request died; the claim of ``epoch`` or later begins anew."""

    id: UUID
    epoch: int


Notice = Finished | Delta | Lost


class Waiting(msgspec.Struct, array_like=True, tag="w", frozen=True, gc=False):
    """Rows of a (model, class, team, rank) may be claimed; of one share, where they have one."""

    model: str
    service_class: int
    team_id: int
    rank: int = 0
    share: int | None = None


class Gone(msgspec.Struct, array_like=True, tag="g", frozen=True, gc=False):
    """A claim was taken away: its request was cancelled."""

    id: UUID
    epoch: int


Bell = Waiting | Gone


class Reads(msgspec.Struct, array_like=True, tag="r", frozen=True, gc=False):
    """A request reads the chunks of a claim: of its own, or of the leader's that it follows.

    ``channel`` is that of its API process, which has the first ``offset`` of the chunks.
    """

    id: UUID
    request: UUID
    channel: UUID
    offset: int = 0


class BatchNotice(msgspec.Struct, array_like=True, tag="b", frozen=True, gc=False):
    """Something is the matter with a batch; the channel says what."""

    id: UUID


encode = msgspec.msgpack.Encoder().encode
decode_notices = msgspec.msgpack.Decoder(list[Notice]).decode
decode_batches = msgspec.msgpack.Decoder(list[BatchNotice]).decode
decode_bells = msgspec.msgpack.Decoder(list[Bell]).decode
decode_reads = msgspec.msgpack.Decoder(list[Reads]).decode


def led(epoch: int) -> int:
    """A leader's epoch as its followers know it: in order, and below all epochs of their own."""
    return epoch - 2**31


def api_channel(incarnation: UUID) -> str:
    """The channel on which an API process listens."""
    return f"carpool:api:{incarnation.hex}"


def backend_channel(backend: str) -> str:
    """The channel on which all runs of a backend listen."""
    return f"carpool:backend:{backend}"


def run_channel(run: UUID) -> str:
    """The channel of one run."""
    return f"carpool:run:{run.hex}"


def readers_channel(run: UUID) -> str:
    """The channel on which a run is told who reads its streams."""
    return f"carpool:readers:{run.hex}"


CHANGED_CHANNEL = "carpool:changed"
"""Says that keys or routes have changed, to whoever keeps them in memory."""
BATCHES_CHANNEL = "carpool:batches"
"""Batches that have another status or other counts, for those who watch them."""
JOBS_CHANNEL = "carpool:jobs"
"""Batches that need a job now. A hint beside dramatiq's message, which an idle worker sees late."""
MAX_INLINE_BYTES = 256 * 1024
"""A larger result is read from Postgres instead."""
