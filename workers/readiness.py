"""Whether a backend is to be given work: what its health check says, and its circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from carpool.errors import EngineDied, PassingError
from carpool.log import cause
from workers.backends.protocol import Backend
from workers.breaker import Breaker, is_backends

log = structlog.get_logger()


class Readiness:
    """Watches one backend, and tells when it can no longer be given work, or can again."""

    def __init__(
        self,
        backend: Backend,
        *,
        health_seconds: float,
        turned: Callable[[bool], Awaitable[None]],
        died: Callable[[EngineDied], None],
    ) -> None:
        self._backend = backend
        self._health_seconds = health_seconds
        self._turned = turned
        self._died = died
        self._healthy = True
        self._breaker = Breaker()
        self._told = True
        self._changed = asyncio.Event()

    @property
    def accepts(self) -> bool:
        """Whether the backend answers, as far as is known."""
        return self._healthy and not self._breaker.is_open

    def allowance(self, wanted: int) -> int:
        """How many calls may start now, of so many; one probes a backend that was given up."""
        if not self._healthy:
            return 0
        allowed = self._breaker.allows(time.monotonic())
        return wanted if allowed is None else min(wanted, allowed)

    @property
    def pause_seconds(self) -> float | None:
        """How long to wait until one call may probe; None where no wait would help."""
        if not self._healthy or not self._breaker.is_open:
            return None
        pause = self._breaker.probe_at - time.monotonic()
        return pause if pause > 0 else None

    def started(self, calls: int) -> None:
        """So many calls have begun."""
        if calls:
            self._breaker.started(time.monotonic())

    def met(self, error: PassingError | None) -> None:
        """A call was answered, or failed for a passing reason."""
        if error is None:
            self._breaker.succeeded()
        elif is_backends(error):
            self._breaker.failed(time.monotonic())
        if self.accepts != self._told:
            self._changed.set()

    async def check(self) -> None:
        """Ask the backend for its health until it dies."""
        while True:
            await asyncio.sleep(self._health_seconds)
            healthy = True
            try:
                async with asyncio.timeout(self._health_seconds):
                    await self._backend.health()
            except EngineDied as error:
                self._died(error)
                return
            except (PassingError, TimeoutError) as error:
                log.warning("backend_unhealthy", backend=self._backend.name, error=cause(error))
                healthy = False
            if healthy != self._healthy:
                self._healthy = healthy
                self._changed.set()

    async def tell(self) -> None:
        """Call ``turned`` for ever, each time that the backend is given up or taken back."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.accepts != self._told:
                self._told = self.accepts
                log.warning("backend_turned", backend=self._backend.name, accepts=self._told)
                await self._turned(self._told)
