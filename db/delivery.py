"""What became of an answer on its way to the client, and how a retry finds it again."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import shuffle
from uuid import UUID

from carpool.ids import id_at, new_id
from db.database import Fetches, Lane
from db.sql import load

DELIVERED = "insert into deliveries (id) select unnest($1::uuid[]) on conflict do nothing"
DISCONNECTED = """
with ended as (
    insert into disconnects (connection) select unnest($1::uuid[]) on conflict do nothing
)
update queue q
set
    channel = null,
    abandon_at = case when q.awaited then now() + make_interval(secs => $3) end
from unnest($2::uuid[], $4::uuid[]) as e(id, channel)
where q.id = e.id and q.channel = e.channel
"""
REATTACH = load("reattach")
TAKE = """
insert into reattachments (connection, request_id, successor, incarnation)
values ($1, $2, $3, $4) on conflict do nothing returning connection
"""
ATTACH = load("attach")

NOTICE_SECONDS = 1.0
LOOK_SECONDS = 0.05
RECENT_SECONDS = 2 * 3600
"""How far back a retry is looked up: twice as long as a default client keeps trying."""


async def store_deliveries(lane: Lane, ids: Sequence[UUID], again: bool) -> Sequence[None]:
    """Note that the last byte of these answers was written."""
    await lane.fetch(DELIVERED, ids)
    return [None] * len(ids)


async def store_disconnects(
    lane: Lane,
    ended: Sequence[tuple[UUID, UUID]],
    *,
    incarnation: UUID,
    grace_seconds: float,
) -> None:
    """Note that (connection, request id) ended undelivered.

    A request that still runs is given ``grace_seconds`` for a retry to take it over, unless it was
    left to be answered later.
    """
    await lane.fetch(
        DISCONNECTED,
        [connection for connection, _ in ended],
        [request for _, request in ended],
        grace_seconds,
        [incarnation] * len(ended),
    )


async def take_over(
    database: Fetches, *, team_id: int, fingerprint: UUID, incarnation: UUID
) -> tuple[UUID, UUID] | None:
    """Find an undelivered request for a client's retry, and make its next connection ours.

    Returns (request id, id of the new connection), or None where the retry is new work. Two
    retries never take over the same connection, for its end is unique in ``reattachments``. A retry
    may come before the end of its last connection was noticed: where one is still open, that end is
    waited for.
    """
    since = id_at(datetime.now(UTC) - timedelta(seconds=RECENT_SECONDS))
    give_up = time.monotonic() + NOTICE_SECONDS
    while candidates := await database.fetch(REATTACH, fingerprint, team_id, since):
        ended = [candidate for candidate in candidates if candidate["ended"]]
        shuffle(ended)  # of many that come at once, few try the same one
        if not ended:
            if time.monotonic() > give_up:
                return None
            await asyncio.sleep(LOOK_SECONDS)
        for candidate in ended:
            connection = new_id()
            taken = await database.fetch(
                TAKE, candidate["connection"], candidate["id"], connection, incarnation
            )
            if taken:
                return candidate["id"], connection
        # Others, retrying the same body at once, were faster with all of these: look again.
    return None


async def attach(database: Fetches, request: UUID, incarnation: UUID) -> bool:
    """Let an API process wait for a request; False where it has ended and its result is stored."""
    return bool(await database.fetch(ATTACH, request, incarnation))


async def leave(database: Fetches, request: UUID) -> None:
    """Let a request run to its end though no one waits for it."""
    await database.fetch(
        "update queue set awaited = false, abandon_at = null where id = $1", request
    )


async def attach_all(lane: Lane, requests: Sequence[UUID], incarnation: UUID) -> None:
    """The same for all that a process waits for, after others took it for dead."""
    await lane.fetch(
        "update queue set channel = $2, abandon_at = null where id = any($1::uuid[])",
        requests,
        incarnation,
    )


async def listen_in(database: Fetches, request: UUID, incarnation: UUID) -> None:
    """Have an API process told of a request's end, unless another connection waits for it."""
    await database.fetch(
        "update queue set channel = $2 where id = $1 and channel is null", request, incarnation
    )
