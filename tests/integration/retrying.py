"""Clients that hang up and come back, and what Postgres notes of them."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import msgspec

from carpool.ids import parse_public_id
from tests.clients import CHAT, Requests
from tests.stack import Json, Stack, eventually

SIDING = "siding"
"""A model whose requests wait until its route is opened."""
ENDED_CONNECTIONS = """
select count(*) from disconnects d where d.connection = $1
    or d.connection in (select successor from reattachments where request_id = $1)
"""
REATTACHED = "select count(*) from reattachments where request_id = $1"
ATTENDED = """
select true from queue where id = $1 and channel is not null and abandon_at is null
"""


async def send(
    requests: Requests,
    body: Json,
    retry: int | bytes,
    *,
    path: str = "/chat/completions",
    **options: Any,
) -> httpx.Response:
    """The same bytes for the same body, as the SDK sends them."""
    count = retry if isinstance(retry, bytes) else str(retry).encode()
    headers = {b"content-type": b"application/json", b"x-stainless-retry-count": count}
    content = msgspec.json.encode(body)
    return await requests.http.post(path, content=content, headers=headers, **options)


async def hang_up(
    stack: Stack,
    requests: Requests,
    changes: Json,
    *,
    retry: int,
    identifier: str | None = None,
    status: str = "in_progress",
) -> str:
    """Send a request and close the connection while it waits; the id, once the end is noted."""
    sending = asyncio.create_task(send(requests, CHAT | changes, retry))
    if identifier is None:
        [identifier] = await eventually(lambda: requests.ids(status=status))
    else:
        await reattached(stack, identifier, retry)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await ended(stack, identifier, retry + 1)
    return identifier


async def ended(stack: Stack, identifier: str, connections: int) -> None:
    async def noted() -> bool:
        return bool(await stack.value(ENDED_CONNECTIONS, uuid_of(identifier)) == connections)

    await eventually(noted)


async def reattached(stack: Stack, identifier: str, times: int) -> None:
    async def noted() -> bool:
        return bool(await stack.value(REATTACHED, uuid_of(identifier)) == times)

    await eventually(noted)


def uuid_of(identifier: str) -> UUID:
    return parse_public_id("req_", identifier)
