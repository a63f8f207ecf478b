"""Reads a request's body, never more of it than is allowed."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from carpool.errors import BodyTooLarge, InvalidRequest


async def read_body(request: Request, *, limit_bytes: int, stall_seconds: float) -> bytes:
    """The whole body, which may make no progress for ``stall_seconds`` (LESSONS 2).

    Raises BodyTooLarge before it is read whole, InvalidRequest where it stalls, and Starlette's
    ClientDisconnect where the client hangs up half-way.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                message = await request.receive()
        except TimeoutError:
            raise InvalidRequest("The request's body stalled.", code="body_stalled") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {limit_bytes} bytes.")
