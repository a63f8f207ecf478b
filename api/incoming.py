"""Bytes on their way into the file store, noted before and after."""

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import Self
from uuid import UUID

from api.bodies import too_large
from api.services import Services
from carpool.errors import Unavailable
from carpool.store import Writer


class Discarded(Exception):
    """Ends the writing of an object that shall not be."""


class Incoming(ABC):
    """One object; what is not kept when the context ends is discarded, whatever ended it."""

    def __init__(self, services: Services, *, limit_bytes: int) -> None:
        self.id: UUID | None = None
        self.size = 0
        self.limit_bytes = limit_bytes
        self._services = services
        self._stack = AsyncExitStack()
        self._writer: Writer | None = None
        self._kept = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._kept or self.id is None:
            return
        try:
            await self._stack.__aexit__(Discarded, Discarded(), None)
        finally:
            await self._abandon(self.id)

    async def write(self, data: bytes) -> None:
        """Take bytes; raises BodyTooLarge."""
        assert self._writer is not None
        self.size += len(data)
        if self.size > self.limit_bytes:
            raise too_large(self.limit_bytes)
        await self._writer.write(data)

    async def close(self) -> None:
        """Let the object appear in the store."""
        await self._stack.aclose()

    def keep(self) -> None:
        """Its row says that it is there, and others may read it."""
        self._kept = True

    @abstractmethod
    async def _abandon(self, identifier: UUID) -> None:
        """Have the row say that it will not be written."""

    async def _open(self, key: str) -> None:
        self._writer = await self._stack.enter_async_context(self._services.store.create(key))

    async def _taken_for_leftover(self, key: str) -> Unavailable:
        """Remove what the cleaning, which has had the row, may have come too early for."""
        await self._services.store.delete(key)
        return Unavailable("The upload was cut off; try again.")
