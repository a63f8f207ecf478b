"""Clients of a real Carpool, and what they ask."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai.pagination import AsyncCursorPage, AsyncPage, SyncCursorPage, SyncPage

from tests.stack import MODEL, Json, eventually

CHAT: Json = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Who leaves the yard at seven?"}],
}
FOREVER: Json = {"carpool_simulate": {"milliseconds_per_token": 60_000}}
"""Added to a body, it keeps the simulated engine busy until it is told to stop."""


class Stock:
    """A stock client, sync or async, behind one way of asking."""

    def __init__(self, client: OpenAI | AsyncOpenAI) -> None:
        self._client = client

    async def __call__(self, ask: Callable[[Any], Any]) -> Any:
        """What ``ask(client)`` gives; of a stream or a page, the list of all its items."""
        if isinstance(self._client, OpenAI):
            return await asyncio.to_thread(self._ask, ask)
        found = await ask(self._client)
        if isinstance(found, AsyncStream):
            async with found:
                return [item async for item in found]
        return (
            [item async for item in found]
            if isinstance(found, AsyncPage | AsyncCursorPage)
            else found
        )

    def _ask(self, ask: Callable[[Any], Any]) -> Any:
        found = ask(self._client)
        if isinstance(found, Stream):
            with found:
                return list(found)
        return list(found) if isinstance(found, SyncPage | SyncCursorPage) else found


class Requests:
    """A team's `/v1/requests` over bare HTTP; AssertionError for an answer that is an error."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def leave(self, path: str = "/chat/completions", **changes: Any) -> Json:
        """Leave a request, `CHAT` with changes, to be answered later; its object."""
        headers = {"prefer": "respond-async"}
        return await self._ask("POST", path, 202, json=CHAT | changes, headers=headers)

    async def get(self, identifier: str, **query: Any) -> Json:
        """One request's object, ``wait=SECONDS`` for its end."""
        return await self._ask("GET", f"/requests/{identifier}", params=query)

    async def until(self, identifier: str, status: str) -> Json:
        """The object once it has this status."""

        async def look() -> Json | None:
            found = await self.get(identifier)
            return found if found["status"] == status else None

        return await eventually(look)

    async def cancel(self, identifier: str) -> Json:
        """The object of a request that has ended, by this if not before."""
        return await self._ask("DELETE", f"/requests/{identifier}")

    async def page(self, **query: Any) -> Json:
        """A page of the list, newest first."""
        return await self._ask("GET", "/requests", params=query)

    async def ids(self, **query: Any) -> list[str]:
        """The ids of a page."""
        return [found["id"] for found in (await self.page(**query))["data"]]

    async def _ask(self, method: str, path: str, status: int = 200, **options: Any) -> Json:
        answer = await self.http.request(method, path, **options)
        assert answer.status_code == status, answer.text
        found: Json = answer.json()
        return found


def chat_head(secret: str, *lines: str) -> bytes:
    """The head of a chat request, for a bare connection."""
    start = ("POST /v1/chat/completions HTTP/1.1", "host: localhost")
    return "\r\n".join((*start, f"authorization: Bearer {secret}", *lines, "", "")).encode()
