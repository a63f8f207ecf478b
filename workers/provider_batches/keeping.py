"""What all keepers have in common: a step after another, whatever fails in between."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog

from carpool.errors import PassingError, Unavailable
from carpool.log import cause
from carpool.states import ProviderBatchState, ServiceClass
from db import provider_batches as steps
from db.database import DatabaseAway
from db.provider_batches import LostError, Member, ProviderBatch
from workers.executor import backoff_seconds
from workers.provider_batches.desk import Desk
from workers.provider_batches.provider import Refused
from workers.provider_batches.rows import Rows
from workers.traces import record_provider_batch

ERROR_LENGTH = 2000
HAND_BACK_SECONDS = 60.0
"""After so long a failure of the provider, rows that it has not got go to the route's others."""
log = structlog.get_logger()


class Keeping(ABC):
    """Moves one provider batch on, for as long as this process keeps it."""

    def __init__(self, desk: Desk, batch: ProviderBatch, *, doubtful: bool) -> None:
        """``doubtful``: more of it may be at the provider than is known."""
        self.batch = batch
        self._desk = desk
        self._doubtful = doubtful
        self._failures = 0
        self._lane = desk.database.lane()
        self._rows = Rows(desk, batch, self._lane)

    @abstractmethod
    async def _step(self) -> float | None:
        """Move on; how long to wait for the next step, None where it has ended."""

    async def keep(self) -> None:
        """Move it on until it has ended, or another process keeps it."""
        try:
            while self.batch.state != ProviderBatchState.ENDED:
                pause = await self._try()
                if pause is None:
                    return
                await asyncio.sleep(pause)
        finally:
            await self._lane.close()

    async def _try(self) -> float | None:
        """One step; how long to wait for the next one, None where there is none."""
        try:
            pause = await self._step()
            self._failures = 0
            return pause
        except LostError as error:
            log.warning("provider_batch_lost", provider_batch=str(error))
            return None
        except PassingError as error:
            return await self._failed(error, error.retry_after_seconds or 0.0)
        except (Refused, Unavailable, DatabaseAway, OSError) as error:
            return await self._failed(error, 0.0)
        except Exception as error:
            log.exception("provider_batch_bug", provider_batch=str(self.batch.id))
            return await self._failed(error, 0.0)

    async def _failed(self, error: Exception, asked_seconds: float) -> float | None:
        self._doubtful = True
        self._failures += 1
        log.warning(
            "provider_step_failed",
            provider_batch=str(self.batch.id),
            state=ProviderBatchState(self.batch.state).name,
            failures=self._failures,
            error=cause(error),
        )
        if await self._hand_back():
            return None
        asked = min(asked_seconds, self._desk.backend.poll_seconds)
        return max(asked, backoff_seconds(self._failures))

    def _is_late(self, member: Member) -> bool:
        """Whether its deadline is so near that another backend had better answer it live."""
        if member.deadline is None or not self._is_helped(ServiceClass(member.service_class)):
            return False
        left = (member.deadline - datetime.now(UTC)).total_seconds()
        return 0 < left < self._desk.backend.live_seconds

    def _may_be_late(self) -> bool:
        """Whether a row of its may be; without this, none is looked for."""
        if self.batch.deadline is None or not any(map(self._is_helped, ServiceClass)):
            return False
        left = (self.batch.deadline - datetime.now(UTC)).total_seconds()
        return left < self._desk.backend.live_seconds

    def _is_helped(self, service_class: ServiceClass) -> bool:
        """Whether another backend would answer late requests of a class."""
        return self._desk.map.hurries_elsewhere(self.batch.model, service_class)

    async def _unbroken(
        self, doing: Coroutine[Any, Any, None], *, stop: Callable[[], None] = lambda: None
    ) -> None:
        """Do it to its end, though this be cancelled meanwhile: for as long as a drain may take.

        ``stop`` tells it then that its end had better be near.
        """
        task = asyncio.create_task(doing)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait({task}, timeout=self._desk.settings.drain_seconds)
            if task.cancel():
                await asyncio.wait({task})
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.warning("provider_step_failed", error=cause(error))
            raise

    def _others_help(self) -> bool:
        """Whether the provider has failed for long, and another backend is up."""
        since = self._desk.provider.failing_since
        return (
            since is not None
            and asyncio.get_running_loop().time() - since >= HAND_BACK_SECONDS
            and self._desk.map.leads_elsewhere(self.batch.model)
        )

    async def _hand_back(self) -> bool:
        """Let others have what a failing provider has not got; whether it has ended by that."""
        if self.batch.state != ProviderBatchState.GATHERED or not self._others_help():
            return False
        try:
            await self._rows.release(await self._rows.left())
            await self._end("the provider fails")
        except (DatabaseAway, LostError):
            return False
        return True

    async def _end(self, error: str | None) -> float | None:
        # No text of Postgres holds a NUL, and what the provider says may.
        error = None if error is None else error.replace("\0", "")[:ERROR_LENGTH]
        await steps.ended(self._lane, self._desk.keeper, self.batch, error)
        # Behind the colon stands what the provider said, which may repeat what was sent.
        kind = None if error is None else error.partition(":")[0]
        record_provider_batch(self.batch, kind)
        log.info("provider_batch_ended", provider_batch=str(self.batch.id), error=kind)
        return None

    async def _still_keep(self) -> None:
        desk = self._desk
        kept = await steps.renew(
            self._lane, self.batch.backend, desk.keeper, desk.settings.lease_seconds
        )
        if self.batch.id not in kept:
            raise LostError(f"{self.batch.id}")
