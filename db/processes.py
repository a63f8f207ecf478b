"""Which API and worker processes live.

A process renews its row; one whose row has ended is dead to all others. A *seat* is a place that
only one process can hold, known to a supervisor: who takes it proves that its last holder is dead.

A drained worker that is started anew is still drained: it is known by its seat, or without one by
its host, and by its backend. It takes the drain over from the row of its predecessor, so that of
several on a host as many are drained as were.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from db.database import Database, DatabaseAway, Fetches

TAKE_SEAT = """
update processes set ended_at = now() where seat = $1 and id <> $2 and ended_at is null
"""
# Drained rows in the place of `me`, of hearts that have stood still since it started.
PREDECESSORS = """
    p.paused_at is not null and p.backend = me.backend and p.heartbeat_at < me.started_at
    and (p.seat = me.seat or (p.seat is null and me.seat is null and p.host = me.host))
"""
# One that is not known to be dead holds its successor back until then; one that lives beats soon.
BEAT = f"""
with me as (
    select * from processes where id = $1 and ended_at is null
), predecessor as (
    select p.id, p.ended_at from processes p, me where {PREDECESSORS}
    order by p.ended_at limit 1
), inherited as (
    update processes set paused_at = null
    where paused_at is not null and ended_at is not null
        and id = (select id from predecessor)
        and (select paused_at from me) is null
    returning ended_at
)
update processes set
    heartbeat_at = now(),
    paused_at = case when exists (select from inherited) then now() else paused_at end
where id = $1 and ended_at is null
returning
    paused_at is not null
    or exists (select from predecessor where ended_at is null) as paused
"""  # noqa: S608 - texts of this module
ENTER = """
insert into processes (id, kind, seat, host, pid, backend) values ($1, $2, $3, $4, $5, $6)
on conflict (id) do update
set heartbeat_at = now(), ended_at = null, left_at = null, settled_at = null, seat = $3
"""
LEAVE = "update processes set ended_at = now(), left_at = now() where id = $1"
log = structlog.get_logger()


class Process:
    """This process, as the others see it; of a worker, the backend that it serves."""

    def __init__(
        self, identifier: UUID, kind: str, seat: str | None, *, backend: str | None = None
    ) -> None:
        self.id = identifier
        self.kind = kind
        self.paused = False
        """Whether an operator wants it to begin nothing, as its last heartbeat has learned."""
        self.turned = asyncio.Event()
        """Set when that has changed."""
        self.look_now = asyncio.Event()
        """Set by who has heard that it may have: the next heartbeat comes at once."""
        self._seat = seat
        self._backend = backend
        self._reached = True

    async def enter(self, lane: Fetches) -> None:
        """Become known, in place of the dead process that held the seat."""
        if self._seat is not None:
            await self._fetch(lane, TAKE_SEAT, self._seat, self.id)
        await self._insert(lane)
        await self.beat(lane)

    async def beat(self, lane: Fetches) -> bool:
        """Renew the row; False where others took this process for dead, and it is known anew."""
        rows = await self._fetch(lane, BEAT, self.id)
        if rows:
            if rows[0]["paused"] != self.paused:
                self.paused = rows[0]["paused"]
                self.turned.set()
            return True
        try:
            await self._insert(lane)
        except asyncpg.UniqueViolationError:
            self._seat = None  # another holds it now
            await self._insert(lane)
        return False

    async def live(self, database: Database, beat_seconds: float) -> None:
        """Beat for ever, on a lane of its own."""
        lane = database.lane()
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(beat_seconds):
                        await self.look_now.wait()
                self.look_now.clear()
                try:
                    if not await self.beat(lane):
                        log.warning("process_was_taken_for_dead")
                except DatabaseAway as error:
                    log.warning("heartbeat_failed", error=str(error))
        finally:
            await lane.close()

    async def leave(self, lane: Fetches) -> None:
        """Say that this process ends."""
        await lane.fetch(LEAVE, self.id)

    async def _insert(self, lane: Fetches) -> None:
        host, pid = socket.gethostname(), os.getpid()
        await self._fetch(lane, ENTER, self.id, self.kind, self._seat, host, pid, self._backend)

    async def _fetch(self, lane: Fetches, sql: str, *arguments: object) -> Sequence[Any]:
        """Of an outage of the database, the end is told here for the whole process."""
        try:
            rows = await lane.fetch(sql, *arguments)
        except DatabaseAway:
            self._reached = False
            raise
        if not self._reached:
            self._reached = True
            log.info("database_reached")
        return rows
