"""What a store's own errors mean to the rest of Carpool."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from carpool.errors import FileMissing, StoreAway

# Azure's signatures travel in queries.
_QUERY = re.compile(r"\?\S*")


@contextmanager
def reading(key: str, *foreign: type[Exception]) -> Iterator[None]:
    """Where an object is read: absent is FileMissing, all else that of `writing`."""
    with writing(key, *foreign):
        try:
            yield
        except FileNotFoundError:
            raise FileMissing(key) from None


@contextmanager
def writing(key: str, *foreign: type[Exception]) -> Iterator[None]:
    """OSError and the errors of a foreign library become StoreAway."""
    caught: tuple[type[Exception], ...] = (OSError, *foreign)
    try:
        yield
    except caught as error:
        raise StoreAway(f"{key}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """One line that holds no secret."""
    lines = str(error).splitlines() or [type(error).__name__]
    return _QUERY.sub("", lines[0])
