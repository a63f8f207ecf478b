"""What waits at a connection: for one answer, or for a stream."""

import asyncio
from collections import deque
from uuid import UUID

from carpool.notices import Delta, Finished, Lost, Notice, Source, led
from carpool.states import Outcome
from db.results import Stored, chunks_of

NOTHING = UUID(int=0)


class AnswerSink:
    """Waits for one answer, whole."""

    watches_epochs = False
    lacks_from = None
    request = NOTHING

    def __init__(self) -> None:
        self.future: asyncio.Future[Finished | Stored | None] = (
            asyncio.get_running_loop().create_future()
        )

    def hear(self, notice: Notice) -> None:
        """Take the result, of whatever epoch: only one is ever stored."""
        if isinstance(notice, Finished):
            self._resolve(notice)

    def stored(self, result: Stored) -> None:
        """Take it from Postgres."""
        self._resolve(result)

    def claimed_anew(self, epoch: int) -> None:
        """Of no matter: nothing was read yet."""

    def give_up(self) -> None:
        """Resolve with None: the connection ended, or its time is up."""
        self._resolve(None)

    def _resolve(self, value: Finished | Stored | None) -> None:
        if not self.future.done():
            self.future.set_result(value)


class StreamSink:
    """Reads a stream of one claim, in order and without a gap.

    The first epoch that brings a first chunk is the stream's. What comes of an older claim is
    dropped; what a gap left out is sent again where that is asked for, or else read from the stored
    result, where that is of the same claim. A newer claim after chunks were taken interrupts the
    stream. A leader's claims are older than all of its follower's own.
    """

    watches_epochs = True
    request = NOTHING

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.taken = 0
        """Chunks accepted so far, for the client."""
        self.ready: deque[bytes] = deque()
        """Accepted chunks that are not written yet."""
        self.end: Finished | Stored | None = None
        self.interrupted = False
        self.source: Source | None = None
        self.event = asyncio.Event()
        self._oldest = led(0)
        self._gap = False

    def hear(self, notice: Notice) -> None:
        """Take chunks, a loss, or the end."""
        match notice:
            case Delta():
                self._delta(notice)
            case Lost():
                self.claimed_anew(notice.epoch)
            case Finished():
                self._finish(notice)

    def stored(self, result: Stored) -> None:
        """The end, with all chunks."""
        self._finish(result)

    def claimed_anew(self, epoch: int) -> None:
        """A newer claim: begin anew, or be interrupted where chunks were taken."""
        if self.epoch is not None and epoch > self.epoch and self.end is None:
            self.interrupted = True
            self.event.set()
        self._oldest = max(self._oldest, epoch)

    def _delta(self, delta: Delta) -> None:
        if self.epoch is None:
            if delta.epoch < self._oldest:
                return
            self._oldest = delta.epoch
            if delta.offset:
                return
            self.epoch = delta.epoch
            self.source = delta.source
        elif delta.epoch != self.epoch:
            self.claimed_anew(delta.epoch)
            return
        if delta.offset > self.taken:
            self._gap = True
            return
        new = delta.chunks[self.taken - delta.offset :]
        if new:
            self._gap = False
            self.ready.extend(new)
            self.taken += len(new)
            self.event.set()

    def _finish(self, end: Finished | Stored) -> None:
        if self.end is not None and isinstance(end, Finished):
            return
        self.end = end
        self.source = self.source or end.source
        self.event.set()

    @property
    def lacks_from(self) -> int | None:
        """From which chunk on it may lack some that were streamed; None where it does not."""
        complete = self.epoch is not None and not self._gap
        return None if complete or self.end is not None else self.taken

    @property
    def lacks_chunks(self) -> bool:
        """Whether the answer succeeded, but must be read from the stored result."""
        end = self.end
        return (
            isinstance(end, Finished)
            and end.outcome == Outcome.COMPLETED
            and (end.epoch, end.chunks) != (self.epoch, self.taken)
        )

    def catch_up(self) -> None:
        """Take what is missing from a stored stream; interrupted where it is another claim's."""
        end = self.end
        if not isinstance(end, Stored) or end.outcome != Outcome.COMPLETED:
            return
        if self.epoch not in (None, end.epoch):
            self.interrupted = True
            return
        chunks = chunks_of(end.body)
        self.epoch = end.epoch
        self.ready.extend(chunks[self.taken :])
        self.taken = max(self.taken, len(chunks))
