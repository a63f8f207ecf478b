"""The provider's background responses: created, looked at, cancelled and deleted, so many at once.

Bytes go and come as in :mod:`workers.provider_batches.provider`, whose connections these are.
"""

import asyncio
import time
from collections.abc import Mapping

import msgspec

from carpool.errors import PassingError
from workers.backends import openai_limits
from workers.backends.openai_budget import SharedBudget
from workers.provider_batches.provider import Provider, Refused
from workers.provider_batches.responses_answer import Response

PATH = "/responses"
AT_ONCE = 16
"""Calls of one process, for all of its provider batches."""
RATE_LIMITED, CONFLICT = 429, 409


class _Deleted(msgspec.Struct):
    deleted: bool = True


class Responses:
    """Of one account. Raises PassingError for what may pass, else Refused; a 429 holds all workers.

    OpenAI lists no responses and knows no idempotency key: one whose creation was answered to
    nobody cannot be found again, and is created, and paid, once more.
    """

    def __init__(self, provider: Provider, budget: SharedBudget) -> None:
        self.doubt = asyncio.Semaphore(AT_ONCE)
        """Held from the creation of one until its id is noted: no more are lost by a kill."""
        self._provider = provider
        self._budget = budget
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asking = asyncio.Lock()
        self._in_flight = 0

    async def admit(self, wanted: int) -> int:
        """How many may be created now, within the limits that all workers share."""
        async with self._asking:
            return await self._budget.admit(wanted)

    async def create(self, body: bytes) -> Response:
        """Create one; what it may cost counts from here on."""
        async with self._room:
            sent_at = time.monotonic()
            self._in_flight += 1
            try:
                made, headers = await self._ask("POST", PATH, body)
            finally:
                self._in_flight -= 1
            self._heard(headers, sent_at)
            return made

    async def get(self, identifier: str) -> Response:
        """One as it is now."""
        async with self._room:
            found, _ = await self._ask("GET", f"{PATH}/{identifier}")
            if found.usage is not None:
                self._budget.used(found.usage.input_tokens + found.usage.output_tokens)
            return found

    async def cancel(self, identifier: str) -> Response | None:
        """Let one be computed no further: as it is then; None where it is gone, or over."""
        async with self._room:
            try:
                found, _ = await self._ask("POST", f"{PATH}/{identifier}/cancel", b"{}")
            except Refused:
                return None
            except PassingError as error:
                if error.status != CONFLICT:
                    raise
                return None
            return found

    async def delete(self, identifier: str) -> None:
        """Delete one, if it is still there."""
        async with self._room:
            try:
                await self._provider.ask("DELETE", f"{PATH}/{identifier}", _Deleted)
            except Refused:
                return
            except PassingError as error:
                raise self._slowed(error) from None

    async def let_go(self, identifier: str, *, over: bool, kept: bool) -> None:
        """Leave nothing of one there that nobody needs; ``kept``: the client asked to store it."""
        if not over:
            await self.cancel(identifier)
        if not kept:
            await self.delete(identifier)

    async def _ask(
        self, method: str, path: str, body: bytes = b""
    ) -> tuple[Response, Mapping[str, str]]:
        try:
            return await self._provider.ask(method, path, Response, body)
        except PassingError as error:
            raise self._slowed(error) from None

    def _slowed(self, error: PassingError) -> PassingError:
        """The same error; a rate limit pauses all workers of the backend."""
        if error.status == RATE_LIMITED and not error.counts:
            asked = error.retry_after_seconds
            pause = openai_limits.UNSAID_PAUSE_SECONDS if asked is None else asked
            self._budget.pause(min(pause, openai_limits.LONGEST_PAUSE_SECONDS))
        return error

    def _heard(self, headers: Mapping[str, str], sent_at: float) -> None:
        limits = openai_limits.read(headers)
        self._budget.heard(limits, sent_at=sent_at, in_flight=self._in_flight)
