"""Clients that read one stream together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import msgspec

from carpool.ids import parse_public_id
from cli.port import free_port
from tests.clients import CHAT
from tests.double.launch import Double
from tests.faults.processes import late
from tests.stack import Json, Stack, eventually

PATH = "/v1/chat/completions"
HELD = 3
"""How many chunks the double sends before it waits."""
DONE = b"data: [DONE]"
FOLLOWING = "select count(*) from queue where leader is not null"


def words(event: bytes) -> str:
    """What a chunk adds to the text."""
    [choice] = msgspec.json.decode(event.removeprefix(b"data: "))["choices"]
    text: str = choice["delta"].get("content", "")
    return text


class Reader:
    """A client that reads a stream in the background, from its making on."""

    def __init__(self, http: httpx.AsyncClient, content: Json, **headers: str) -> None:
        self.status = 0
        self.identifier = ""
        self.backend = ""
        self.events: list[bytes] = []
        """What was read so far; comments are left out."""
        self.body = b""
        """Where it is no stream."""
        self._task = asyncio.create_task(self._read(http, content, headers))

    async def until(self, count: int) -> list[bytes]:
        """The first events, once so many are read."""

        async def come() -> bool:
            if self._task.done():
                self._task.result()
            return len(self.events) >= count

        await eventually(come)
        return self.events[:count]

    async def end(self) -> list[bytes]:
        """All events, once the answer has ended."""
        await self._task
        return self.events

    async def hang_up(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def id(self) -> UUID:
        return parse_public_id("req_", self.identifier)

    @property
    def error(self) -> str:
        """The code of the error that the last event, or the body, tells."""
        text = self.body or self.events[-1].removeprefix(b"data: ")
        code: str = msgspec.json.decode(text)["error"]["code"]
        return code

    async def _read(self, http: httpx.AsyncClient, content: Json, headers: dict[str, str]) -> None:
        ask = http.stream("POST", "/chat/completions", json=content, headers=headers)
        async with ask as answer:
            self.status = answer.status_code
            self.identifier = answer.headers["x-request-id"]
            self.backend = answer.headers.get("x-carpool-backend", "")
            async for part in answer.aiter_bytes():
                *events, self.body = (self.body + part).split(b"\n\n")
                self.events += [event for event in events if event.startswith(b"data: ")]


def body(**fields: object) -> Json:
    return CHAT | {"model": "house", "temperature": 0, "stream": True} | fields


async def calls(double: Double) -> int:
    return len((await double.seen()).of(PATH))


async def joined(sharing: Stack, number: int = 1) -> None:
    """Return when so many follow."""

    async def follow() -> bool:
        return bool(await sharing.value(FOLLOWING) == number)

    await eventually(follow)


async def alone(http: httpx.AsyncClient, content: Json) -> list[bytes]:
    """What the same request reads that shares nothing."""
    return await Reader(http, content, **{"cache-control": "no-store"}).end()


@asynccontextmanager
async def another_api(
    sharing: Stack, config: Path, http: httpx.AsyncClient
) -> AsyncIterator[httpx.AsyncClient]:
    """The way of the same client to a second API process, which ends in order with the context."""
    port = free_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    client = httpx.AsyncClient(base_url=f"{url}/v1", headers=http.headers, timeout=http.timeout)

    async def ready() -> bool:
        try:
            return (await client.get(f"{url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async with client:
        with late(sharing, "api", "--port", str(port), "--config", str(config)):
            await eventually(ready)
            yield client
