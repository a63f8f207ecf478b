"""OUT.partial: the lines of the batches' results, in the order in which they came."""

import fcntl
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.plan import Plan

NOWHERE = -1


class _Named(msgspec.Struct):
    custom_id: str


_decode = msgspec.json.Decoder(_Named).decode


class Partial:
    """The file, held by one process; see :func:`opened_partial`."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "r+b", closefd=False)

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Forget what lies beyond."""
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, lines: bytes) -> int:
        """Add whole lines; they are on the disk when this returns. The new size."""
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def places(self, plan: Plan) -> "array[int]":
        """By request: the offset of its line, `NOWHERE` where it has none. 8 bytes for each."""
        found = array("q", [NOWHERE]) * plan.requests
        self._file.seek(0)
        offset = 0
        for line in self._file:
            place = plan.place(_decode(line).custom_id)
            if place is None:
                raise CannotGoOn("the server has sent a result for a custom_id that was not asked")
            found[place] = offset
            offset += len(line)
        return found

    def line_at(self, offset: int) -> bytes:
        """With its newline."""
        self._file.seek(offset)
        return self._file.readline()


@contextmanager
def opened_partial(path: Path) -> Iterator[Partial]:
    """Open or make the file; raises BadInput while another process has it open.

    The kernel gives it free however the process ends. An empty one is removed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another `carpool submit` is at work on {path}") from None
        partial = Partial(descriptor)
        try:
            yield partial
        finally:
            if not partial.size():
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
