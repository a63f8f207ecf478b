"""One worker's part in the limits that a provider sets for all workers of a backend."""

import asyncio
import time

import structlog

from carpool.background import Background
from db.database import Database, DatabaseAway
from db.rate_limits import Observation, give_back, observe, pause, reserve
from workers.backends.openai_limits import RateLimits

TELL_SECONDS = 0.25
"""Between what is told of the levels; a pause is told at once."""
LOOK_SECONDS = 5.0
"""Between looks whether another worker has met a limit, while this one has met none."""
LONGEST_WAIT_SECONDS = 1.0
"""After which the budget is asked again, for others may have given back."""
MARGIN_SECONDS = 0.25
"""How much later than it was sent a request may be counted by the provider. So much of the refill
stays unspent; where none did, every call that goes as soon as it may would come a moment early."""
RECOVERY_SECONDS = 1.0
TOKENS_WEIGHT = 0.1
"""Of the newest call in the mean of what a call takes."""
log = structlog.get_logger()


class SharedBudget:
    """Asks before calls start, and tells what the answers' headers say.

    A provider that names no limit costs one query in `LOOK_SECONDS`.
    """

    def __init__(self, backend: str, database: Database) -> None:
        self._backend = backend
        self._database = database
        self._lane = database.lane()
        self._limited = False
        self._look_at = 0.0
        self._shut_until = 0.0
        self._tokens_each = 0.0
        self._reserved = (0, 0.0)
        self._observed = Observation()
        self._observed_at = 0.0
        self._in_flight = 0
        self._news = asyncio.Event()
        self._pause_news = asyncio.Event()
        self._background = Background()

    def start(self) -> None:
        """Begin to tell what is observed."""
        self._background.start(self._tell_levels(), self._tell_pauses())

    async def close(self) -> None:
        """Tell nothing more; safe to call twice, and before `start`."""
        await self._background.close()
        await self._lane.close()

    async def admit(self, wanted: int) -> int:
        """How many calls may start; none while Postgres is away."""
        self._reserved = (0, 0.0)
        now = time.monotonic()
        if now < self._shut_until:
            return 0
        if not self._limited and now < self._look_at:
            return wanted
        tokens_each = self._tokens_each
        try:
            grant = await reserve(self._lane, self._backend, wanted, tokens_each)
        except DatabaseAway as error:
            log.warning("budget_not_reached", backend=self._backend, error=str(error))
            return 0
        self._look_at = now + LOOK_SECONDS
        if grant.limited:
            self._limited = True
            self._reserved = (grant.number, tokens_each)
        if grant.number == 0:
            self._shut_until = now + min(grant.wait_seconds, LONGEST_WAIT_SECONDS)
        return grant.number

    async def unused(self, number: int) -> None:
        """Give back what `admit` reserved and no call has taken."""
        reserved, tokens_each = self._reserved
        number = min(number, reserved)
        if number <= 0:
            return
        self._reserved = (0, 0.0)
        try:
            await give_back(self._lane, self._backend, number, tokens_each)
        except DatabaseAway as error:
            # The bucket refills; nothing is lost but a little time.
            log.warning("budget_not_reached", backend=self._backend, error=str(error))

    def used(self, tokens: int) -> None:
        """Learn what a call has taken."""
        weight = TOKENS_WEIGHT if self._tokens_each else 1.0
        self._tokens_each += weight * (tokens - self._tokens_each)

    def heard(self, limits: RateLimits, *, sent_at: float, in_flight: int) -> None:
        """Take in an answer's headers; ``sent_at`` is the monotonic moment of its request.

        What the provider counted then has refilled since: the level of a slow answer is not that
        of now, and would hold back what may go.
        """
        if not limits.observation:
            return
        now = time.monotonic()
        earlier = self._observed.after(now - self._observed_at)
        self._observed = earlier.joined(limits.observation.after(now - sent_at - MARGIN_SECONDS))
        self._observed_at, self._in_flight, self._limited = now, in_flight, True
        self._news.set()

    def pause(self, seconds: float) -> None:
        """Let no worker start a call for so long."""
        self._shut_until = max(self._shut_until, time.monotonic() + seconds)
        self._limited = True
        self._pause_news.set()

    async def _tell_levels(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            told, self._observed = self._observed, Observation()
            try:
                await observe(
                    self._database,
                    self._backend,
                    told.after(time.monotonic() - self._observed_at),
                    in_flight=self._in_flight,
                    tokens_each=self._tokens_each,
                )
            except DatabaseAway as error:
                log.warning("limits_not_told", backend=self._backend, error=str(error))
            await asyncio.sleep(TELL_SECONDS)

    async def _tell_pauses(self) -> None:
        while True:
            await self._pause_news.wait()
            self._pause_news.clear()
            seconds = self._shut_until - time.monotonic()
            try:
                if seconds > 0:
                    await pause(self._database, self._backend, seconds)
            except DatabaseAway as error:
                log.warning("pause_not_told", backend=self._backend, error=str(error))
                self._pause_news.set()
                await asyncio.sleep(RECOVERY_SECONDS)
