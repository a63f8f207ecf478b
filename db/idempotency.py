"""Idempotency keys: the first request under a key is the only one."""

from typing import NamedTuple
from uuid import UUID

from db.database import Database
from db.submit import SUBMIT, Submission, columns

# Waits for a transaction that is storing the same key just now.
TAKE = """
insert into idempotency_keys (team_id, key, fingerprint, request_id)
values ($1, $2, $3, $4) on conflict do nothing returning request_id
"""
FIRST = "select request_id, fingerprint from idempotency_keys where team_id = $1 and key = $2"
FORGET = "delete from idempotency_keys where created_at < now() - make_interval(secs => $1)"


class First(NamedTuple):
    """The first request under a key."""

    request: UUID
    fingerprint: UUID


async def submit_once(database: Database, submission: Submission, key: UUID) -> First:
    """Store a request under a key, or learn which was stored under it before.

    Key and request are stored in one transaction.
    """
    async with database.transaction() as driver:
        taken = await driver.fetch(
            TAKE, submission.team_id, key, submission.fingerprint, submission.id
        )
        if taken:
            await driver.fetch(SUBMIT, *columns([submission]))
            return First(submission.id, submission.fingerprint)
        row = await driver.fetchrow(FIRST, submission.team_id, key)
        return First(row["request_id"], row["fingerprint"])
