"""Starts services, starts again those that die, and ends all of them in order."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from carpool.errors import CarpoolError
from cli.process_group import Command, ProcessGroup
from cli.process_record import RecordFile

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
HEALTHY_SECONDS = 60.0


def _nothing() -> None:
    """For a child that needs no preparation."""


async def ready_at_once(group: ProcessGroup) -> None:
    """For a child that nobody waits for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A child that is to run for as long as the supervisor does."""

    command: Command
    prepare: Callable[[], None] = _nothing
    """Runs in a thread before each start."""
    wait_ready: Callable[[ProcessGroup], Awaitable[None]] = ready_at_once
    """Raises a CarpoolError where the child ended or takes too long; at the first start, so does
    :meth:`Supervisor.start`."""
    foundation: bool = False
    """Whether others need it, so that it is ended after them."""
    stop_seconds: float


class Backoff:
    """How long to wait before the next start: doubling, and short again after a time of health."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY_SECONDS

    def after(self, lived_seconds: float) -> float:
        """The delay after a life of this length."""
        if lived_seconds >= HEALTHY_SECONDS:
            self._next = FIRST_DELAY_SECONDS
        delay = self._next
        self._next = min(delay * 2, LONGEST_DELAY_SECONDS)
        return delay


class Supervisor:
    """Keeps services; what it does by itself it tells ``say``, a line each."""

    def __init__(self, record: RecordFile, say: Callable[[str], None]) -> None:
        self._record = record
        self._say = say
        self._keepers: list[_Keeper] = []
        self._hurry = asyncio.Event()

    async def start(self, service: Service) -> None:
        """Start a service, return when it is ready; from then on it is kept."""
        keeper = _Keeper(service, self._record, self._say)
        self._keepers.append(keeper)
        await keeper.start()

    def hurry(self) -> None:
        """Give what is not a foundation no more time."""
        self._hurry.set()

    async def stop(self) -> None:
        """End all services: first those that use the foundations, together, then these."""
        for stage in (False, True):
            keepers = [keeper for keeper in self._keepers if keeper.service.foundation is stage]
            await asyncio.gather(*(keeper.stop(self._hurry) for keeper in keepers))


class _Keeper:
    """One service. Its task is never cancelled, so that no child is started and forgotten."""

    def __init__(self, service: Service, record: RecordFile, say: Callable[[str], None]) -> None:
        self.service = service
        self._record = record
        self._say = say
        self._backoff = Backoff()
        self._group: ProcessGroup | None = None
        self._stopping = asyncio.Event()
        self._first_group: asyncio.Future[ProcessGroup] = asyncio.Future()
        self._task = asyncio.create_task(self._keep())

    async def start(self) -> None:
        await self.service.wait_ready(await asyncio.shield(self._first_group))

    async def stop(self, hurry: asyncio.Event) -> None:
        self._stopping.set()
        if self._group is not None:
            self._group.signal(self.service.command.stop_signal)
        if self.service.foundation:
            await asyncio.wait([self._task], timeout=self.service.stop_seconds)
        else:
            await _first(self._task, hurry, self.service.stop_seconds)
        if not self._task.done() and self._group is not None:
            self._group.kill()
        await self._task

    async def _keep(self) -> None:
        try:
            group = await self._spawn()
        except (OSError, CarpoolError) as error:
            self._first_group.set_exception(error)
            return
        self._first_group.set_result(group)
        while (delay := await self._lived(group)) is not None:
            again = await self._spawn_again(delay)
            if again is None:
                return
            group = again
            await self._tell_ready(group)

    async def _lived(self, group: ProcessGroup) -> float | None:
        """Wait for a group's end; return the delay to the next start, None for no such."""
        clock = asyncio.get_running_loop().time
        born = clock()
        code = await group.wait()
        with suppress(OSError):  # a stale entry does no harm
            self._record.remove(group)
        if self._stopping.is_set():
            return None
        delay = self._backoff.after(clock() - born)
        self._say(f"{self._name} (pid {group.pid}) {_end(code)}; starts again in {delay:g} s")
        return delay

    async def _spawn_again(self, delay: float) -> ProcessGroup | None:
        """The next group, or None where the supervisor stops meanwhile."""
        while not await self._stops_within(delay):
            try:
                return await self._spawn()
            except (OSError, CarpoolError) as error:
                delay = self._backoff.after(0)
                self._say(f"{self._name} cannot start: {error}; again in {delay:g} s")
        return None

    async def _tell_ready(self, group: ProcessGroup) -> None:
        try:
            await self.service.wait_ready(group)
            self._say(f"{self._name} runs again (pid {group.pid})")
        except CarpoolError as error:
            if group.running:  # else its end is told next
                self._say(f"{self._name} (pid {group.pid}): {error}")

    async def _spawn(self) -> ProcessGroup:
        await asyncio.to_thread(self.service.prepare)
        group = await ProcessGroup.start(self.service.command)
        try:
            self._record.add(group, foundation=self.service.foundation)
        except OSError:
            await group.stop(grace_seconds=0)
            raise
        self._group = group
        if self._stopping.is_set():
            group.signal(self.service.command.stop_signal)
        return group

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    @property
    def _name(self) -> str:
        return self.service.command.name


async def _first(task: asyncio.Task[None], event: asyncio.Event, seconds: float) -> None:
    """Wait until the task ends, the event is set, or the time is over."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
