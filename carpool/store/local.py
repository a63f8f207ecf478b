"""Objects as files of a local directory."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from carpool.store.failures import reading, writing
from carpool.store.gathering import GatheringWriter

READ_BYTES = 1 << 20
UNFINISHED = ".unfinished"


class LocalStore:
    """A key is a path below the root; an object that is being written has a name of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[GatheringWriter]:
        path = self._root / key
        begun = path.with_name(path.name + UNFINISHED)
        with writing(key):
            file = await asyncio.to_thread(_open_new, begun)

        async def put(pieces: list[bytes]) -> None:
            with writing(key):
                await asyncio.to_thread(file.writelines, pieces)

        writer = GatheringWriter(put)
        try:
            yield writer
            await writer.flush()
            with writing(key):
                await asyncio.to_thread(_publish, file, begun, path)
        except BaseException:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                begun.unlink()
            raise

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        with reading(key):
            file = await asyncio.to_thread(open, self._root / key, "rb", 0)
        with file:
            file.seek(start)
            left = float("inf") if end is None else end - start
            while left > 0:
                with reading(key):
                    piece = await asyncio.to_thread(file.read, int(min(READ_BYTES, left)))
                if not piece:
                    return
                left -= len(piece)
                yield piece

    async def delete(self, key: str) -> None:
        path = self._root / key
        for name in (path, path.with_name(path.name + UNFINISHED)):
            with writing(key):
                await asyncio.to_thread(name.unlink, missing_ok=True)

    async def close(self) -> None:
        """Nothing is open between calls."""


def _open_new(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path.open("wb")


def _publish(file: BinaryIO, begun: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    begun.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
