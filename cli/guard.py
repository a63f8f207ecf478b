"""A small process that ends all children of an `up` that was killed by -9.

It reads a pipe whose other end only `up` holds: the end of `up`, in whatever way, is the end of the
pipe. An orderly `up` leaves an empty record, and nothing is to be done.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.process_record import RecordFile, end_recorded, read_record

_END_SECONDS = 10.0


@contextmanager
def guarded(record: RecordFile, *, grace_seconds: float) -> Iterator[None]:
    """Keep a guard beside this process for as long as the context lasts."""
    arguments = (str(record.path), str(record.owner.pid), str(grace_seconds))
    guard = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", "cli.guard", *arguments],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


def main(path: str, owner_pid: str, grace_seconds: str) -> None:
    """Wait for the end of the pipe; then end what its owner still has in the record."""
    sys.stdin.buffer.read()
    record = read_record(Path(path))
    # The record of a next `up` is none of our business: it has ended the leftovers already.
    if record is not None and record.owner.pid == int(owner_pid):
        end_recorded(record.processes, grace_seconds=float(grace_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
