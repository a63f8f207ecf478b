"""Requests are sent, as many at a time as there are lanes, and what each took is noted."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing

import anyio
import httpx2
import msgspec
import openai

from cli.bench.reading import Reading, StreamFailed, said
from cli.bench.sample import Sample
from cli.bench.workload import Body
from cli.bulk.asking import described

REQUEST_SECONDS = 600.0
"""The most that a request may take: as long as the SDK waits unless told."""
HEADERS = {"content-type": "application/json", "cache-control": "no-store"}
"""What is measured is the model, not a stored answer."""

BROKEN = (httpx2.HTTPError, httpx2.StreamError, OSError, anyio.EndOfStream)
"""In the middle of an answer; TimeoutError is an OSError."""

Note = Callable[[Sample], None]

_encode = msgspec.json.Encoder().encode


class Lanes:
    """A fixed number of lanes, each of which sends its next request when its last has ended."""

    def __init__(self, client: openai.AsyncOpenAI, count: int) -> None:
        self._client = client.with_options(timeout=REQUEST_SECONDS)
        self._count = count
        self._begin = time.perf_counter()

    async def run(self, model: str, block: int, bodies: Iterable[Body], note: Note) -> None:
        """Send all of them to a model; those that a cancellation breaks off are not noted."""
        waiting = iter(bodies)

        async def lane() -> None:
            for body in waiting:
                note(await self._ask(model, block, body))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(lane())

    async def _ask(self, model: str, block: int, body: Body) -> Sample:
        content = _encode({"model": model, **body})
        reading = Reading()
        began = time.perf_counter()
        failure: StreamFailed | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._stream(content, reading, began)
        except StreamFailed as failed:
            failure = failed
        except (openai.OpenAIError, *BROKEN) as error:
            failure = _failure(error)
        return reading.sample(
            model=model,
            block=block,
            began=began - self._begin,
            seconds=time.perf_counter() - began,
            failure=failure,
        )

    async def _stream(self, content: bytes, reading: Reading, began: float) -> None:
        response = await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=content,
            options={"headers": HEADERS},
            stream=True,
        )
        async with aclosing(response), aclosing(response.aiter_bytes()) as received:
            async for part in received:
                reading.feed(part, time.perf_counter() - began)
        reading.close(time.perf_counter() - began)


def _failure(error: Exception) -> StreamFailed:
    if isinstance(error, openai.APIStatusError):
        failed = said(str(error.status_code), error.body)
        return StreamFailed(failed.code, described(error))
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | TimeoutError):
        return StreamFailed("timeout", "The server does not answer in time.")
    if isinstance(error, openai.OpenAIError):
        return StreamFailed("connection", described(error))
    return StreamFailed("connection", f"The connection broke ({type(error).__name__}).")
