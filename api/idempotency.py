"""``Idempotency-Key``: what is sent under one is stored once (COMPAT section 3)."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from starlette.requests import Request

from api.services import Services
from carpool.errors import IdempotencyMismatch, InvalidRequest
from db.idempotency import store_once

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255


async def stored_once(
    services: Services,
    store: Callable[[Any], Awaitable[object]],
    identifier: UUID,
    *,
    team_id: int,
    key: UUID,
    fingerprint: UUID,
) -> UUID:
    """The id of what is stored under a key: ``identifier``, stored now, or an earlier one.

    Raises IdempotencyMismatch where the key came with another body.
    """
    first = await store_once(
        services.database,
        store,
        identifier,
        team_id=team_id,
        key=key,
        fingerprint=fingerprint,
    )
    if first.fingerprint != fingerprint:
        raise IdempotencyMismatch(f"The {HEADER} was used before with another body.", param=HEADER)
    return first.identifier


def key_of(request: Request, path: str) -> UUID | None:
    """A hash of the key that a request for a path came with, or None."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(f"An {HEADER} has 1 to {MAX_KEY_LENGTH} characters.", param=HEADER)
    digest = hashlib.sha256(f"POST {path}\n{key}".encode()).digest()
    return UUID(bytes=digest[:16])
