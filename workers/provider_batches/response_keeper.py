"""One provider batch on its way as background responses: created, looked at, let go of.

Each response is noted as soon as its id is known, so that it counts as submitted, and is never
created again. Between its creation and its note lies one instant that no order of steps can close:
OpenAI lists no responses, and knows no idempotency key. A kill just then, or an answer lost on its
way, pays one request twice; its row has one answer all the same.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from carpool.errors import PassingError
from carpool.states import ProviderBatchState
from carpool.windows import parse_window
from db import provider_batches as steps
from db import provider_responses as responses
from db.database import DatabaseAway
from db.provider_batches import ProviderBatch
from db.provider_responses import OpenResponse, Unclaimed
from workers.provider_batches.desk import Desk
from workers.provider_batches.keeping import Keeping
from workers.provider_batches.provider import Refused
from workers.provider_batches.reading import EXPIRED, Told, missing, unanswered
from workers.provider_batches.response_creation import Creation
from workers.provider_batches.response_pace import Pace
from workers.provider_batches.responses_answer import answer

CHUNK = 64
MARGIN_SECONDS = 600.0
"""After its window a response is given so long before it is cancelled."""
LOOKS_AT_NOTHING = 5
"""How often in a row the provider must say that it knows nothing of a response, to be believed."""
LOOKS_AT_RUBBISH = 20
"""How often in a row one cannot be read that should be over, before its row goes anew."""
LIMITED_PAUSE_SECONDS = 1.0
WAITING, ANSWERING = "in_progress", "finalizing"
"""What is noted as the status until, and once, some of it is answered: in a batch's own words."""
_Found = TypeVar("_Found")


class ResponseKeeper(Keeping):
    """Moves a provider batch on that goes as background responses."""

    def __init__(self, desk: Desk, batch: ProviderBatch) -> None:
        super().__init__(desk, batch, doubtful=False)
        self._window_seconds = parse_window(batch.window).total_seconds()
        self._pace = Pace(
            window_seconds=self._window_seconds, poll_seconds=desk.backend.poll_seconds
        )
        self._creation = Creation(desk, batch, self._lane, self._rows)
        self._misses: Counter[str] = Counter()
        """How often in a row each could not be looked at."""
        self._over: set[str] = set()
        self._expired = False
        self._errors: list[PassingError] = []

    async def keep(self) -> None:
        async with self._creation:
            await super().keep()

    async def _step(self) -> float | None:
        batch, lane = self.batch, self._lane
        if batch.state == ProviderBatchState.GATHERED:
            left = await steps.count_members(lane, batch.id)
            if not left:
                return await self._end(None)
            self.batch = await steps.begun(
                lane, self._desk.keeper, batch, status=WAITING, lines=left
            )
        self._errors.clear()
        await self._look()
        creates = await self._may_create()
        if creates:
            await self._unbroken(self._create(), stop=self._creation.stop)
        await self._settle()
        if not self._creation.surplus and not await responses.any_left(lane, batch.id):
            return await self._finish()
        if self._errors:
            raise self._errors[0]
        pause = self._desk.backend.poll_seconds
        limited = creates and self._creation.limited
        return min(pause, LIMITED_PAUSE_SECONDS) if limited else pause

    async def _create(self) -> None:
        self._errors += await self._creation.create(self._still_keep)

    async def _may_create(self) -> bool:
        """Whether some are to be, or taken back; what there is no time or room for is released."""
        unsent = await responses.unsent(self._lane, self.batch.id)
        if not unsent:
            return bool(self._creation.surplus)
        since = self.batch.submitted_at or self.batch.created_at
        if (datetime.now(UTC) - since).total_seconds() >= self._window_seconds:
            error = self._creation.error or unanswered(
                EXPIRED, "The provider's limits were reached."
            )
            await self._rows.tell([Told(m.id, m.epoch, error) for m in unsent])
            return False
        back = [member for member in unsent if self._is_late(member)]
        rest = [member for member in unsent if not self._is_late(member)]
        surplus = await self._surplus() - len(back)
        if surplus > 0:
            back += rest[-surplus:]
        await self._rows.release(back)
        return len(back) < len(unsent)

    async def _surplus(self) -> int:
        """By how many the backend's are more than its limit: it was higher when they were gathered.

        A keeper hands back as many as it sees, or all that it has left to create: whatever others
        do meanwhile, none is created beyond the limit.
        """
        number = await responses.count_open(self._lane, self.batch.backend)
        return number - self._desk.backend.max_background_responses

    async def _look(self) -> None:
        """Ask for the oldest first, store what is over, and cancel what is late."""
        found = await responses.open_responses(self._lane, self.batch.id)
        now = asyncio.get_running_loop().time()
        awaited = {one.response for one in self._pace.due(found, now)}
        due = [one for one in found if one.response in awaited or self._is_late(one.member)]
        for begin in range(0, len(due), CHUNK):
            chunk = due[begin : begin + CHUNK]
            told = await self._gathered([self._ask(one) for one in chunk])
            await self._tell([one for one in told if one is not None])
            if not told:  # the provider fails, and not one of these
                return

    async def _tell(self, told: Sequence[Told]) -> None:
        if await self._rows.tell(told) and self.batch.provider_status == WAITING:
            await self._watched(ANSWERING)

    async def _ask(self, one: OpenResponse) -> Told | None:
        """What is to be told of a row; None where its response goes on."""
        member = one.member
        expired = one.age_seconds >= self._window_seconds + MARGIN_SECONDS
        try:
            told = await self._asked(one, expired=expired)
        except Refused as error:
            self._misses[one.response] += 1
            if self._misses[one.response] < LOOKS_AT_NOTHING:
                raise PassingError(error.summary, detail=str(error)) from None
            return Told(member.id, member.epoch, missing("unknown"))
        except PassingError as error:
            self._misses[one.response] += 1
            if not expired or self._misses[one.response] < LOOKS_AT_RUBBISH:
                raise
            return Told(member.id, member.epoch, error)
        self._misses.pop(one.response, None)
        return told

    async def _asked(self, one: OpenResponse, *, expired: bool) -> Told | None:
        desk, member, upstream = self._desk, one.member, self.batch.upstream
        seen = await desk.responses.get(upstream, one.response)
        if not seen.over and (expired or self._is_late(member)):
            seen = await desk.responses.cancel(upstream, one.response) or seen
        if not seen.over:
            self._pace.looked(one, asyncio.get_running_loop().time())
            return None
        self._over.add(one.response)
        self._expired |= expired
        batch = self.batch
        outcome = answer(seen, backend=batch.backend, model=batch.model, late=expired)
        return Told(member.id, member.epoch, outcome)

    async def _settle(self) -> None:
        """Let go of the responses whose rows have ended, or returned."""
        found = await responses.unclaimed(self._lane, self.batch.id)
        for begin in range(0, len(found), CHUNK):
            chunk = found[begin : begin + CHUNK]
            done = await self._gathered([self._let_go(one) for one in chunk])
            await responses.forget(self._lane, self.batch.id, [one.request for one in done])
            if not done:  # the provider fails, and not one of these
                return

    async def _let_go(self, one: Unclaimed) -> Unclaimed:
        over, upstream = one.response in self._over, self.batch.upstream
        await self._desk.responses.let_go(upstream, one.response, over=over, kept=one.kept)
        self._over.discard(one.response)
        self._pace.forget(one.response)
        self._misses.pop(one.response, None)
        return one

    async def _gathered(self, asking: Sequence[Coroutine[Any, Any, _Found]]) -> list[_Found]:
        """What came of those that succeeded; why the others did not is raised at the step's end."""
        found = []
        for result in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(result, PassingError):
                self._errors.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append(result)
        return found

    async def _hand_back(self) -> bool:
        """Let others have what a failing provider has not got; what it has is waited for."""
        if self.batch.state == ProviderBatchState.SUBMITTED and self._others_help():
            with suppress(DatabaseAway):
                await self._rows.release(await responses.unsent(self._lane, self.batch.id))
        return await super()._hand_back()

    async def _finish(self) -> float | None:
        """End it; where nothing of it was answered, its window's times are not learned from it."""
        status = "cancelled" if self.batch.provider_status == WAITING else "completed"
        await self._watched("expired" if self._expired else status)
        return await self._end(None)

    async def _watched(self, status: str) -> None:
        self.batch = await steps.watched(
            self._lane,
            self._desk.keeper,
            self.batch,
            status=status,
            output_file=None,
            error_file=None,
        )
