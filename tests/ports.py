"""A port that stays a test's own while nobody listens there."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def reserved() -> Iterator[int]:
    """A port that refuses connections, and is no other program's, until somebody listens there.

    A socket that is bound and does not listen keeps it from all who take any free port; who names
    it may listen there, with SO_REUSEADDR as servers have it.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]
