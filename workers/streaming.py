"""The chunks of one streamed answer, on their way to the API processes that wait."""

from datetime import UTC, datetime
from uuid import UUID

from carpool.doorbell import Doorbell
from carpool.notices import MAX_INLINE_BYTES, Delta, Reads, Source, led
from db.claim import Claim


class Stream:
    """Keeps the chunks that a backend emits, and sends them as they come, packed, to all readers.

    Readers are the claimed request, where someone waits for it, and those that follow it.
    """

    def __init__(self, doorbell: Doorbell, claimed: Claim, source: Source) -> None:
        self.chunks: list[bytes] = []
        self.first_at: datetime | None = None
        self._doorbell = doorbell
        self._claimed = claimed
        self._source = source
        self._unsent: list[bytes] = []
        self._publication = -1
        self._readers: dict[UUID, tuple[UUID, int]] = {}
        if claimed.channel is not None:
            self._readers[claimed.id] = (claimed.channel, claimed.epoch)
        for follower, channel in claimed.followers:
            self._readers[follower] = (channel, led(claimed.epoch))

    def emit(self, chunk: bytes) -> None:
        """Take one chunk's JSON; never blocks."""
        if self.first_at is None:
            self.first_at = datetime.now(UTC)
        offset = len(self.chunks)
        self.chunks.append(chunk)
        if not self._readers:
            return
        if self._publication == self._doorbell.publication:
            self._unsent.append(chunk)
            return
        self._unsent = [chunk]
        self._publication = self._doorbell.publication
        source = None if offset else self._source
        for request, (channel, epoch) in self._readers.items():
            self._doorbell.notify(channel, Delta(request, epoch, offset, self._unsent, source))

    def read(self, reads: Reads) -> None:
        """Send the chunks to one more reader: at once those that it lacks, then all that come.

        One that is a reader already may be at another API process now, or have missed some. Where
        it lacks very many, it meets a gap behind the first of them, and asks again.
        """
        epoch = self._claimed.epoch
        if reads.request != self._claimed.id:
            epoch = led(epoch)
        self._readers[reads.request] = (reads.channel, epoch)
        # What waits to be sent is in both: in what the others get, and in what this one gets now.
        self._publication = -1
        lacking = _beginning(self.chunks[reads.offset :])
        if lacking:
            delta = Delta(reads.request, epoch, reads.offset, lacking, self._source)
            self._doorbell.notify(reads.channel, delta)

    def text(self) -> bytes:
        """The stored form: one JSON text a line."""
        return b"\n".join(self.chunks)


def _beginning(chunks: list[bytes]) -> list[bytes]:
    """The first of some chunks: Redis cuts a listener off that has too much to read at once."""
    room = MAX_INLINE_BYTES
    for place, chunk in enumerate(chunks):
        room -= len(chunk)
        if room < 0:
            return chunks[: place or 1]
    return chunks
