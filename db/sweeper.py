"""The loop that sweeps: in every process, acting in the one that holds the lease.

A lease and not a lock: a process that is stopped, or cut off, must not keep the others from
sweeping up after it. Two sweeps at once do no harm, only the same work twice.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import structlog
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy.exc import DBAPIError

from carpool.dispatch import send_jobs, send_run
from carpool.doorbell import Doorbell
from carpool.ids import new_id
from carpool.log import cause
from carpool.metrics import LOST_RUNS
from carpool.notices import BATCHES_CHANNEL, JOBS_CHANNEL, Gone, Waiting
from carpool.settings import Settings
from db.batch_sweep import sweep_batches
from db.database import Database, DatabaseAway, Lane
from db.end import Ended
from db.history import Recorder, fold_histories
from db.idempotency import FORGET as FORGET_KEYS
from db.partitions import drop_partitions, ensure_partitions
from db.sweep import FORGET_RUNS, Swept, sweep

LEASE = """
insert into leases as l (name, holder, until)
values ('sweep', $1, now() + make_interval(secs => $2))
on conflict (name) do update set holder = excluded.holder, until = excluded.until
where l.holder = excluded.holder or l.until < now()
returning now()
"""
SERVED = "select model, backend from served where model = any($1::text[])"
LEASE_POLLS = 5
"""How many polls a lease outlasts its last renewal."""
UPKEEP_SECONDS = 3600.0
FOR_EVER_SECONDS = 1e9
IDEMPOTENCY_SECONDS = 24 * 3600.0
"""How long an Idempotency-Key is remembered."""
log = structlog.get_logger()


class Sweeper:
    """Sweeps while it holds the lock, and tells those concerned; works without Redis."""

    def __init__(
        self, settings: Settings, database: Database, doorbell: Doorbell, broker: RedisBroker
    ) -> None:
        self._settings = settings
        self._database = database
        self._doorbell = doorbell
        self._broker = broker
        self._recorder = Recorder()
        for backend in settings.backends:
            LOST_RUNS.labels(backend)  # at 0, so that the first one is a growth

    async def serve(self) -> None:
        """Sweep for ever; an error ends a round and not the loop."""
        lane = self._database.lane()
        loop = asyncio.get_running_loop()
        upkeep_at = watching_since = loop.time()
        me = new_id()
        lease_seconds = self._settings.poll_seconds * LEASE_POLLS
        try:
            while True:
                try:
                    pause = lease_seconds
                    if held := await lane.fetch(LEASE, me, lease_seconds):
                        pause = self._settings.poll_seconds
                        if loop.time() >= upkeep_at:
                            await self._upkeep(lane)
                            upkeep_at = loop.time() + UPKEEP_SECONDS
                        watched = loop.time() - watching_since
                        await self._round(lane, held[0]["now"], watched_seconds=watched)
                    else:
                        watching_since = loop.time()
                except (DatabaseAway, DBAPIError, asyncpg.PostgresError) as error:
                    log.warning("sweep_failed", error=cause(error))
                    pause = self._settings.poll_seconds
                    watching_since = loop.time()
                await asyncio.sleep(pause)
        finally:
            await lane.close()

    async def _round(self, lane: Lane, now: datetime, *, watched_seconds: float) -> None:
        # Hearts that stood still while Postgres was away prove no death: they are judged by who has
        # seen it work for a whole lease. (A seat that was taken proves one at once.)
        lease_seconds = self._settings.lease_seconds
        swept = await sweep(
            lane,
            now=now,
            lease_seconds=lease_seconds if watched_seconds >= lease_seconds else FOR_EVER_SECONDS,
            grace_seconds=self._settings.grace_seconds,
        )
        if swept.dead_runs:
            log.warning("runs_ended_by_sweep", runs=[str(run) for run in swept.dead_runs])
        await self._tell(lane, swept)
        batches = await sweep_batches(lane)
        tell_ended(self._doorbell, batches.ended)
        self._doorbell.tell_of_batches(BATCHES_CHANNEL, batches.changed)
        await dispatch_jobs(self._doorbell, self._broker, batches.idle)
        await self._recorder.record(lane)

    async def _tell(self, lane: Lane, swept: Swept) -> None:
        for channel, lost in swept.lost:
            self._doorbell.notify(channel, lost)
        tell_ended(self._doorbell, swept.ended)
        for one in swept.followed:
            if one.channel is not None:
                self._doorbell.notify(one.channel, one.notice)
        for run, gone in swept.gone:
            self._doorbell.tell_run(run, gone)
        await ring_backends(lane, self._doorbell, swept.waiting)
        for backend in swept.unserved:
            await asyncio.to_thread(send_run, self._broker, backend)

    async def _upkeep(self, lane: Lane) -> None:
        await ensure_partitions(
            self._database, datetime.now(UTC), days=self._settings.partition_days
        )
        await lane.fetch(FORGET_RUNS)
        await lane.fetch(FORGET_KEYS, IDEMPOTENCY_SECONDS)
        await fold_histories(lane)
        days = self._settings.retention_days
        if days is not None:
            await drop_partitions(self._database, datetime.now(UTC) - timedelta(days=days))


async def dispatch_jobs(doorbell: Doorbell, broker: RedisBroker, batches: Sequence[UUID]) -> None:
    """Have jobs move batches on: a message for each, and a bell for whoever is idle."""
    if batches:
        doorbell.tell_of_batches(JOBS_CHANNEL, batches)
        await asyncio.to_thread(send_jobs, broker, batches)


def tell_ended(doorbell: Doorbell, ended: Iterable[Ended]) -> None:
    """Tell whoever waits for requests that were ended, and the runs that hold them."""
    for request in ended:
        if request.channel is not None:
            doorbell.notify(request.channel, request.notice)
        if request.owner is not None:
            doorbell.tell_run(request.owner, Gone(request.id, request.epoch))


async def ring_backends(lane: Lane, doorbell: Doorbell, groups: Iterable[Waiting]) -> None:
    """Ring for groups at each backend that a route leads to."""
    groups = list(groups)
    if not groups:
        return
    routes = await lane.fetch(SERVED, [group.model for group in groups])
    for group in groups:
        for route in routes:
            if route["model"] == group.model:
                doorbell.ring(route["backend"], group)
