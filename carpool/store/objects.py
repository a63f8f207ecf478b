"""Objects of a bucket: S3, GCS or Azure, through obstore.

An object that a killed process was writing is no object, but its parts lie in the bucket until a
lifecycle rule of the bucket (``AbortIncompleteMultipartUpload``) removes them.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from carpool.errors import ConfigurationError
from carpool.store.failures import reading, reason, writing
from carpool.store.gathering import GatheringWriter

FOREIGN = (BaseError, ValueError)
PART_BYTES = 8 << 20
"""S3 takes 10,000 parts of at least 5 MB: objects may have 80 GB."""
PARTS_AT_ONCE = 2
BLOCK_BYTES = 8 << 20
PIECE_BYTES = 1 << 20
REQUEST_SECONDS = 60.0
RETRIES = 3
RETRY_SECONDS = 20.0
MAX_BACKOFF_SECONDS = 2.0
ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
"""Options that are given here take the place of the environment's, which has this one."""


class ObjectStore:
    """A key is a path below the URL's."""

    def __init__(self, url: str) -> None:
        try:
            self._store: Any = from_url(
                url,
                client_options={
                    "timeout": timedelta(seconds=REQUEST_SECONDS),
                    "allow_http": _allows_http(),
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                    "backoff": {"max_backoff": timedelta(seconds=MAX_BACKOFF_SECONDS)},
                },
            )
        except FOREIGN as error:
            raise ConfigurationError(f"files_url: {reason(error)}") from None

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[GatheringWriter]:
        opened = obstore.open_writer_async(
            self._store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )

        async def put(pieces: list[bytes]) -> None:
            with writing(key, *FOREIGN):
                await opened.write(b"".join(pieces))

        writer = GatheringWriter(put)
        try:
            yield writer
            await writer.flush()
            with writing(key, *FOREIGN):
                await opened.close()
        except BaseException as error:
            with suppress(OSError, *FOREIGN):
                await opened.__aexit__(type(error), error, error.__traceback__)
            raise

    async def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        with reading(key, *FOREIGN):
            found = await obstore.head_async(self._store, key)
        end = found["size"] if end is None else min(end, found["size"])
        while start < end:
            # Whole, for a connection that waits for a slow reader would run into its time limit.
            with reading(key, *FOREIGN):
                got = await obstore.get_async(
                    self._store,
                    key,
                    options={
                        "range": (start, min(start + BLOCK_BYTES, end)),
                        "if_match": found["e_tag"],
                    },
                )
                block = memoryview(await got.bytes_async())
            for place in range(0, len(block), PIECE_BYTES):
                yield bytes(block[place : place + PIECE_BYTES])
            start += len(block)

    async def delete(self, key: str) -> None:
        with writing(key, *FOREIGN), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)

    async def close(self) -> None:
        """obstore has no end; its connections go with the process."""


def _allows_http() -> bool:
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in ALLOW_HTTP)
