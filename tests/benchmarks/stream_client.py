"""A bare streaming client: when the first chunk is here, which wrk cannot tell."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

from tests.benchmarks.chat import NUMBER_MARK, Target, http_request

TIMEOUT_SECONDS = 60.0


class StreamClient:
    """One kept connection, one stream at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._request = http_request(target, stream=True)
        self._numbers: Iterator[int] = count(time.time_ns() // 1000 % 10**12)

    async def stream(self) -> tuple[float, list[str]]:
        """Read a stream to its end: seconds to its first ``data:``, and the data of its events."""
        number = f"{next(self._numbers):012d}"
        began = time.perf_counter()
        self._writer.write(self._request.replace(NUMBER_MARK, number).encode())
        await self._head()
        first, text = 0.0, b""
        while piece := await self._piece():
            text += piece
            if not first and b"data:" in text:
                first = time.perf_counter() - began
        events = text.decode().split("\n\n")
        return first, [event[6:] for event in events if event.startswith("data: ")]

    async def _head(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or b"chunked" not in head.lower():
            raise SystemExit(f"A stream was answered by:\n{head.decode()}")

    async def _piece(self) -> bytes:
        """One piece of the chunked body; empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def stream_client(target: Target) -> AsyncIterator[StreamClient]:
    """A connected client."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        yield StreamClient(reader, writer, target)
    finally:
        writer.close()
        await writer.wait_closed()


async def read_stream(target: Target) -> list[str]:
    """The data of one stream's events."""
    async with asyncio.timeout(TIMEOUT_SECONDS), stream_client(target) as client:
        return (await client.stream())[1]


async def first_chunks(target: Target, samples: int) -> list[float]:
    """The seconds to the first chunk of each of ``samples`` streams, one after the other."""
    async with stream_client(target) as client:
        return [(await client.stream())[0] for _ in range(samples)]
