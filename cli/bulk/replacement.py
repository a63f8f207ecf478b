"""Files that are replaced as a whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from carpool.errors import ConfigurationError

SUFFIX = ".new"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path``, on the disk, when the context ends well."""
    beside = path.with_name(path.name + SUFFIX)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Bring the names beside ``path`` to the disk."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def require_directory(path: Path) -> None:
    """Raise ConfigurationError where no file can be made beside ``path``."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(f"--output: cannot write to {path.parent}")
