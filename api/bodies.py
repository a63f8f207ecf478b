"""Reads a request's body, never more of it than is allowed."""

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from api.patience import Patience
from carpool.errors import BodyTooLarge, InvalidRequest

MAX_LENGTH_DIGITS = 18


async def pieces(
    request: Request, *, limit_bytes: int, stall_seconds: float
) -> AsyncIterator[bytes]:
    """The body as it comes; it may make no progress for ``stall_seconds`` (LESSONS 2).

    Raises BodyTooLarge before it is read whole, InvalidRequest where it stalls, and Starlette's
    ClientDisconnect where the client hangs up half-way.
    """
    if declared_bytes(request) > limit_bytes:
        raise too_large(limit_bytes)
    size = 0
    while True:
        try:
            async with Patience(stall_seconds):
                message = await request.receive()
        except TimeoutError:
            raise InvalidRequest("The request's body stalled.", code="body_stalled") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        more = message.get("more_body", False)
        request.state.body_read = not more
        yield piece
        if not more:
            return


async def read_body(request: Request, *, limit_bytes: int, stall_seconds: float) -> bytes:
    """The whole body; raises what `pieces` does."""
    parts = [
        piece
        async for piece in pieces(request, limit_bytes=limit_bytes, stall_seconds=stall_seconds)
    ]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def declared_bytes(request: Request) -> int:
    """The length that the body is said to have; 0 where nothing is said."""
    text = request.headers.get("content-length", "")
    # Python refuses to read thousands of digits.
    return int(text[:MAX_LENGTH_DIGITS]) if text.isdecimal() else 0


def unread(request: Request) -> bool:
    """Whether the client may still be sending its body."""
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return has_body and not getattr(request.state, "body_read", False)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """What a client is told whose body is larger than this."""
    return BodyTooLarge(f"The request's body is larger than {limit_bytes} bytes.")
