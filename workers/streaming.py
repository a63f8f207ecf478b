"""The chunks of one streamed answer, on their way to the API process that waits."""

from datetime import UTC, datetime

from carpool.doorbell import Doorbell
from carpool.notices import Delta, Source
from db.claim import Claim


class Stream:
    """Keeps the chunks that a backend emits, and sends them as they come, packed."""

    def __init__(self, doorbell: Doorbell, claimed: Claim, source: Source) -> None:
        self.chunks: list[bytes] = []
        self.first_at: datetime | None = None
        self._doorbell = doorbell
        self._claimed = claimed
        self._source = source
        self._unsent: list[bytes] = []
        self._publication = -1

    def emit(self, chunk: bytes) -> None:
        """Take one chunk's JSON; never blocks."""
        if self.first_at is None:
            self.first_at = datetime.now(UTC)
        offset = len(self.chunks)
        self.chunks.append(chunk)
        if self._claimed.channel is None:
            return
        if self._publication == self._doorbell.publication:
            self._unsent.append(chunk)
            return
        self._unsent = [chunk]
        self._publication = self._doorbell.publication
        self._doorbell.notify(
            self._claimed.channel,
            Delta(
                self._claimed.id,
                self._claimed.epoch,
                offset,
                self._unsent,
                None if offset else self._source,
            ),
        )

    def text(self) -> bytes:
        """The stored form: one JSON text a line."""
        return b"\n".join(self.chunks)
