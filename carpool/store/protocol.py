"""Where the bytes of files lie: written once and whole, read in pieces."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Writer(Protocol):
    """An object that is being written."""

    async def write(self, data: bytes) -> None:
        """Append; raises StoreAway where the store cannot take it."""


class FileStore(Protocol):
    """Objects under keys like ``files/<hex>``. All raise StoreAway where the store fails."""

    def create(self, key: str) -> AbstractAsyncContextManager[Writer]:
        """Write an object, which appears whole at the clean end of the context, or never."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` to before ``end``, about a megabyte at a time.

        Raises FileMissing where there is no such object.
        """

    async def delete(self, key: str) -> None:
        """Remove an object, and what was left of an attempt to write it; absent is fine."""

    async def close(self) -> None:
        """Close the connections."""
