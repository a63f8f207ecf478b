"""One worker's part in the limits that a provider sets for all workers of a backend."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from carpool.background import Background
from db.database import Database, DatabaseAway
from db.rate_limits import Calls, Observation, give_back, limited, observe, pause, reserve
from workers.backends.openai_limits import RateLimits

TELL_SECONDS = 0.25
"""Between what is told of the levels; a pause is told at once."""
LOOK_SECONDS = 5.0
"""Between looks whether other workers have met limits of models of which this one has met none."""
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 1.0
"""After which a budget that was empty is asked again: a few calls at a time where it refills fast,
and soon where it does so slowly, for others may have given back."""
MARGIN_SECONDS = 0.25
"""How much later than it was sent a request may be counted by the provider. So much of the refill
stays unspent; where none did, every call that goes as soon as it may would come a moment early."""
RECOVERY_SECONDS = 1.0
TOKENS_WEIGHT = 0.1
"""Of the newest call in the mean of what a call takes."""
NO_CALLS = Calls(0, 0.0)
log = structlog.get_logger()


@dataclass(slots=True)
class _Model:
    """What this worker knows of one model; moments are monotonic."""

    limited: bool = False
    shut_until: float = 0.0
    tokens_each: float = 0.0
    reserved: Calls = NO_CALLS
    """By the last `admit`."""
    observed: Observation = field(default_factory=Observation)
    """What is not told yet."""
    observed_at: float = 0.0
    in_flight: int = 0
    """As it was then."""


class SharedBudget:
    """Asks before calls start, and tells what the answers' headers say; each model has its own.

    A provider that names no limit costs one query in `LOOK_SECONDS`, whatever its models.
    """

    def __init__(self, backend: str, database: Database) -> None:
        self._backend = backend
        self._database = database
        self._lane = database.lane()
        self._models: defaultdict[str, _Model] = defaultdict(_Model)
        self._look_at = 0.0
        self._news = asyncio.Event()
        self._paused: set[str] = set()
        """Whose pause is not told yet."""
        self._pause_news = asyncio.Event()
        self._background = Background()

    def start(self) -> None:
        """Begin to tell what is observed."""
        self._background.start(self._tell_levels(), self._tell_pauses())

    async def close(self) -> None:
        """Tell nothing more; safe to call twice, and before `start`."""
        await self._background.close()
        await self._lane.close()

    def shut(self) -> dict[str, float]:
        """The models of which none may start now, and after how many seconds to ask again."""
        now = time.monotonic()
        return {
            upstream: model.shut_until - now
            for upstream, model in self._models.items()
            if model.shut_until > now
        }

    async def admit(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """How many calls of each model may start; none while Postgres is away."""
        now = time.monotonic()
        try:
            if now >= self._look_at:
                for name in await limited(self._lane, self._backend):
                    self._models[name].limited = True
                self._look_at = now + LOOK_SECONDS
            return dict(wanted) | await self._reserve(wanted, now)
        except DatabaseAway as error:
            log.warning("budget_not_reached", backend=self._backend, error=str(error))
        for name in wanted:
            self._shut(name, now + TELL_SECONDS)
        return dict.fromkeys(wanted, 0)

    async def _reserve(self, wanted: Mapping[str, int], now: float) -> dict[str, int]:
        """How many calls of each model whose limits are known may start."""
        granted: dict[str, int] = {}
        asked: dict[str, Calls] = {}
        for name, number in wanted.items():
            model = self._models[name]
            model.reserved = NO_CALLS
            if now < model.shut_until:
                granted[name] = 0
            elif model.limited:
                asked[name] = Calls(number, model.tokens_each)
        if not asked:
            return granted
        grants = await reserve(self._lane, self._backend, asked)
        now = time.monotonic()
        for name, grant in grants.items():
            granted[name] = grant.number
            if grant.limited:
                self._models[name].reserved = Calls(grant.number, asked[name].tokens_each)
            if grant.number == 0:
                wait = max(SHORTEST_WAIT_SECONDS, min(grant.wait_seconds, LONGEST_WAIT_SECONDS))
                self._shut(name, now + wait)
        return granted

    async def unused(self, calls: Mapping[str, int]) -> None:
        """Give back what `admit` reserved and no call has taken."""
        for name, number in calls.items():
            model = self._models[name]
            reserved, tokens_each = model.reserved
            model.reserved = NO_CALLS
            if min(number, reserved) <= 0:
                continue
            try:
                unused = Calls(min(number, reserved), tokens_each)
                await give_back(self._lane, self._backend, name, unused)
            except DatabaseAway as error:
                # The bucket refills; nothing is lost but a little time.
                log.warning("budget_not_reached", backend=self._backend, error=str(error))

    def used(self, upstream: str, tokens: int) -> None:
        """Learn what a call has taken."""
        model = self._models[upstream]
        weight = TOKENS_WEIGHT if model.tokens_each else 1.0
        model.tokens_each += weight * (tokens - model.tokens_each)

    def heard(self, upstream: str, limits: RateLimits, *, sent_at: float, in_flight: int) -> None:
        """Take in an answer's headers; ``sent_at`` is the monotonic moment of its request.

        What the provider counted then has refilled since: the level of a slow answer is not that
        of now, and would hold back what may go.
        """
        if not limits.observation:
            return
        model = self._models[upstream]
        now = time.monotonic()
        earlier = model.observed.after(now - model.observed_at)
        model.observed = earlier.joined(limits.observation.after(now - sent_at - MARGIN_SECONDS))
        model.observed_at, model.in_flight, model.limited = now, in_flight, True
        self._news.set()

    def pause(self, upstream: str, seconds: float) -> None:
        """Let no worker start a call of a model for so long."""
        self._shut(upstream, time.monotonic() + seconds)
        self._models[upstream].limited = True
        self._paused.add(upstream)
        self._pause_news.set()

    def _shut(self, upstream: str, until: float) -> None:
        model = self._models[upstream]
        model.shut_until = max(model.shut_until, until)

    async def _tell_levels(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for name, model in tuple(self._models.items()):
                if model.observed:
                    await self._tell_level(name, model)
            await asyncio.sleep(TELL_SECONDS)

    async def _tell_level(self, name: str, model: _Model) -> None:
        told, model.observed = model.observed, Observation()
        try:
            await observe(
                self._database,
                self._backend,
                name,
                told.after(time.monotonic() - model.observed_at),
                in_flight=model.in_flight,
                tokens_each=model.tokens_each,
            )
        except DatabaseAway as error:
            log.warning("limits_not_told", backend=self._backend, model=name, error=str(error))

    async def _tell_pauses(self) -> None:
        while True:
            await self._pause_news.wait()
            self._pause_news.clear()
            while self._paused:
                name = self._paused.pop()
                try:
                    seconds = self._models[name].shut_until - time.monotonic()
                    if seconds > 0:
                        await pause(self._database, self._backend, name, seconds)
                except DatabaseAway as error:
                    log.warning("pause_not_told", backend=self._backend, error=str(error))
                    self._paused.add(name)
                    await asyncio.sleep(RECOVERY_SECONDS)
