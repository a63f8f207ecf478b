"""Which API and worker processes live.

A process renews its row; one whose row has ended is dead to all others. A *seat* is a place that
only one process can hold, known to a supervisor: who takes it proves that its last holder is dead.
"""

import asyncio
import os
import socket
from contextlib import suppress
from uuid import UUID

import asyncpg
import structlog

from db.database import Database, DatabaseAway, Fetches

TAKE_SEAT = """
update processes set ended_at = now() where seat = $1 and id <> $2 and ended_at is null
"""
BEAT = """
update processes set heartbeat_at = now() where id = $1 and ended_at is null
returning paused_at is not null as paused
"""
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

    async def enter(self, lane: Fetches) -> None:
        """Become known, in place of the dead process that held the seat."""
        if self._seat is not None:
            await lane.fetch(TAKE_SEAT, self._seat, self.id)
        await self._insert(lane)

    async def beat(self, lane: Fetches) -> bool:
        """Renew the row; False where others took this process for dead, and it is known anew."""
        rows = await lane.fetch(BEAT, self.id)
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
        await lane.fetch(ENTER, self.id, self.kind, self._seat, host, pid, self._backend)
