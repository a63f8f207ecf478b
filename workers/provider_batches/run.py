"""A run of a worker that serves a provider's patient ways: gathers, and keeps what it gathered.

Its rows belong to the provider batches and not to the run: when it ends, any other goes on.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from carpool.background import Background
from carpool.doorbell import Doorbell
from carpool.engine import EngineFigures
from carpool.errors import PassingError
from carpool.ids import new_id
from carpool.notices import CHANGED_CHANNEL
from carpool.settings import OpenAIBatchSettings, Settings
from carpool.states import ProviderBatchState
from db.database import Database, DatabaseAway, Lane
from db.gathering import Gathering, gather, hurry, hurry_streams, in_line
from db.provider_batches import ProviderBatch, adopt, disown, find, renew
from db.provider_responses import count_open
from db.runs import beat_run, begin_run, end_run, set_accepting, set_patience
from workers.backends.openai_budget import SharedBudget
from workers.map import Map
from workers.metrics import figures_of
from workers.provider_batches.desk import Desk
from workers.provider_batches.gatherer import Gatherer
from workers.provider_batches.keeper import Keeper
from workers.provider_batches.keeping import Keeping
from workers.provider_batches.provider import Provider, Refused
from workers.provider_batches.response_keeper import ResponseKeeper
from workers.provider_batches.responses import Responses

LOOKS = 6
"""How often, in the time that the first row waits for company, what waits is looked at."""
LONGEST_LOOK_SECONDS = 5.0
log = structlog.get_logger()


class ProviderRun:
    """Gathers while the provider answers, and moves provider batches on, until told to drain."""

    engine_died = False
    """A provider has no engine that could."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        doorbell: Doorbell,
        name: str,
        backend: OpenAIBatchSettings,
        process: UUID,
    ) -> None:
        self.id = new_id()
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._name = name
        self._backend = backend
        self._process = process
        self._worker = process.hex[-12:]
        self._gatherer = Gatherer(name, backend)
        self._provider = Provider(name, backend)
        self._budget = SharedBudget(name, database)
        self._desk = Desk(
            settings=settings,
            backend=backend,
            database=database,
            doorbell=doorbell,
            provider=self._provider,
            responses=Responses(self._provider, self._budget),
            map=Map(name),
            keeper=self.id,
            worker=self._worker,
        )
        self._keepers: dict[UUID, asyncio.Task[None]] = {}
        self._accepting = True
        self._figures = figures_of(name)
        self._over = asyncio.Event()
        """Told to drain, or ended by others."""
        self._ended = False

    def drain(self) -> None:
        """Gather no more; `serve` returns when its provider batches are left to others."""
        self._over.set()

    async def serve(self) -> bool:
        """Take a slot, and serve until drained or ended by others; False where there is no slot."""
        lane = self._database.lane()
        try:
            if not await begin_run(
                lane,
                run=self.id,
                backend=self._name,
                process=self._process,
                worker=self._worker,
                capacity=self._backend.max_lines,
            ):
                return False
            log.info("run_started", run=str(self.id), backend=self._name)
            self._figures.run_started()
            self._doorbell.announce(CHANGED_CHANNEL)
            self._budget.start()
            background = Background()
            background.start(self._gather_for_ever(), self._beat(), self._check_health())
            try:
                await self._over.wait()
            finally:
                await background.close()
                await self._leave(lane)
                self._figures.run_ended("lost" if self._ended else "drained")
            return True
        finally:
            await self._provider.close()
            await self._budget.close()
            await lane.close()

    async def _gather_for_ever(self) -> None:
        lane = self._database.lane()
        pause = min(self._backend.gather_seconds / LOOKS, LONGEST_LOOK_SECONDS)
        try:
            while True:
                try:
                    await set_patience(lane, self.id, self._gatherer.patience_seconds)
                    await self._desk.map.read(lane)
                    if self._accepting and self._provider.failing_since is None:
                        await self._gather(lane)
                except DatabaseAway as error:
                    log.warning("gather_failed", error=str(error))
                await asyncio.sleep(pause)
        finally:
            await lane.close()

    async def _gather(self, lane: Lane) -> None:
        ready = await self._gatherer.look(lane, self._desk.map, now=datetime.now(UTC))
        await self._leave_to_others(lane)
        for wanted in ready:
            lines = await self._gathered(lane, wanted)
            made = await find(lane, wanted.id) if lines else None
            if made is not None:
                log.info(
                    "provider_batch_gathered",
                    provider_batch=str(made.id),
                    model=made.model,
                    window=made.window,
                    lines=lines,
                    reason=made.reason,
                )
                self._figures.gathered(made.model, lines)
                self._keep(made, fresh=True)

    async def _leave_to_others(self, lane: Lane) -> None:
        """Let live calls have what no way of this backend answers, or none in time."""
        gatherer, rows = self._gatherer, self._backend.max_lines
        streams = await hurry_streams(lane, gatherer.groups, rows=rows)
        hurried = await hurry(lane, gatherer.hurried, rows=rows)
        if streams or hurried:
            log.info("rows_hurried", backend=self._name, rows=hurried, streams=streams)

    async def _gathered(self, lane: Lane, wanted: Gathering) -> int:
        """Make a provider batch, unless its responses would be too many; how many rows it has."""
        made = partial(
            gather,
            wanted=wanted,
            run=self.id,
            version=self._desk.map.version,
            keeper=self.id,
            lease_seconds=self._settings.lease_seconds,
        )
        if not wanted.background:
            return await made(lane)
        async with in_line(self._database, self._name) as driver:
            number = await count_open(driver, self._name) + sum(wanted.takes.values())
            return await made(driver) if number <= self._backend.max_background_responses else 0

    async def _beat(self) -> None:
        """Renew the leases, of the run and of what it keeps; adopt what nobody keeps."""
        lane = self._database.lane()
        try:
            while not self._ended:
                try:
                    await self._look_after(lane)
                    figures = EngineFigures(kind=self._backend.kind)
                    if not (await beat_run(lane, self.id, [], figures)).alive:
                        log.warning("run_lost_its_lease", run=str(self.id))
                        self._ended = True
                        self._over.set()
                except DatabaseAway as error:
                    log.warning("heartbeat_failed", error=str(error))
                await asyncio.sleep(self._settings.heartbeat_seconds)
        finally:
            await lane.close()

    async def _look_after(self, lane: Lane) -> None:
        lease = self._settings.lease_seconds
        kept = await renew(lane, self._name, self.id, lease)
        for batch in await adopt(lane, self._name, self.id, lease):
            log.info("provider_batch_adopted", provider_batch=str(batch.id), state=batch.state)
            self._keep(batch, fresh=False)
        for identifier in kept - self._keepers.keys():
            # Gathered by a statement whose answer was lost, or left by a keeper that gave up.
            left = await find(lane, identifier)
            if left is not None and left.state != ProviderBatchState.ENDED:
                self._keep(left, fresh=False)

    def _keep(self, batch: ProviderBatch, *, fresh: bool) -> None:
        if batch.id in self._keepers:
            return
        keeper: Keeping = (
            ResponseKeeper(self._desk, batch)
            if batch.background
            else Keeper(self._desk, batch, fresh=fresh)
        )
        task = asyncio.create_task(keeper.keep())
        self._keepers[batch.id] = task
        task.add_done_callback(lambda _: self._keepers.pop(batch.id, None))

    async def _check_health(self) -> None:
        """Ask a provider that fails whether it answers again; meanwhile the route's next is up."""
        lane = self._database.lane()
        try:
            while True:
                await asyncio.sleep(self._settings.health_seconds)
                if self._provider.failing_since is not None or not self._accepting:
                    with suppress(PassingError, Refused):
                        await self._provider.reachable()
                accepting = self._provider.failing_since is None
                if accepting != self._accepting:
                    try:
                        await set_accepting(lane, self.id, accepting=accepting)
                    except DatabaseAway as error:
                        log.warning("turn_failed", error=str(error))
                        continue
                    self._accepting = accepting
                    self._doorbell.announce(CHANGED_CHANNEL)
                    log.warning("backend_turned", backend=self._name, accepting=accepting)
        finally:
            await lane.close()

    async def _leave(self, lane: Lane) -> None:
        """Stop in mid-step, and leave what was kept to be adopted at once."""
        tasks = list(self._keepers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await disown(lane, self._name, self.id)
            await end_run(lane, self.id)
            self._doorbell.announce(CHANGED_CHANNEL)
        except DatabaseAway as error:
            log.warning("run_not_ended", run=str(self.id), error=str(error))
        log.info("run_ended", run=str(self.id), left=len(tasks))
