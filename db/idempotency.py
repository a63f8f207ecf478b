"""Idempotency keys: the first request under a key is the only one."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from db.database import Database

# Waits for a transaction that is storing the same key just now.
TAKE = """
insert into idempotency_keys (team_id, key, fingerprint, request_id)
values ($1, $2, $3, $4) on conflict do nothing returning request_id
"""
FIRST = "select request_id, fingerprint from idempotency_keys where team_id = $1 and key = $2"
FORGET = "delete from idempotency_keys where created_at < now() - make_interval(secs => $1)"


class First(NamedTuple):
    """What was stored first under a key: a request or a batch."""

    identifier: UUID
    fingerprint: UUID


async def store_once(
    database: Database,
    store: Callable[[Any], Awaitable[object]],
    identifier: UUID,
    *,
    team_id: int,
    key: UUID,
    fingerprint: UUID,
) -> First:
    """Store under a key, or learn what was stored under it before.

    ``store`` is given the driver of the one transaction in which the key is taken, too.
    """
    async with database.transaction() as driver:
        while not await driver.fetch(TAKE, team_id, key, fingerprint, identifier):
            row = await driver.fetchrow(FIRST, team_id, key)
            if row is not None:
                return First(row["request_id"], row["fingerprint"])
            # What had the key was just refused, and forgotten with it.
        await store(driver)
        return First(identifier, fingerprint)
