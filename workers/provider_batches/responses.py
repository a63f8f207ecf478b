"""The provider's background responses: created, looked at, cancelled and deleted, so many at once.

Bytes go and come as in :mod:`workers.provider_batches.provider`, whose connections these are.
"""

import asyncio
import time
from collections import Counter
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
    """Of one account. Raises PassingError for what may pass, else Refused; a 429 holds the upstream
    model for all workers.

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
        self._in_flight: Counter[str] = Counter()

    async def admit(self, upstream: str, wanted: int) -> int:
        """How many of a model may be created now, within the limits that all workers share."""
        async with self._asking:
            return (await self._budget.admit({upstream: wanted}))[upstream]

    async def create(self, upstream: str, body: bytes) -> Response:
        """Create one; what it may cost counts from here on."""
        async with self._room:
            sent_at = time.monotonic()
            self._in_flight[upstream] += 1
            try:
                made, headers = await self._ask(upstream, "POST", PATH, body)
            finally:
                self._in_flight[upstream] -= 1
            self._heard(upstream, headers, sent_at)
            return made

    async def get(self, upstream: str, identifier: str) -> Response:
        """One as it is now."""
        async with self._room:
            found, _ = await self._ask(upstream, "GET", f"{PATH}/{identifier}")
            if found.usage is not None:
                tokens = found.usage.input_tokens + found.usage.output_tokens
                self._budget.used(upstream, tokens)
            return found

    async def cancel(self, upstream: str, identifier: str) -> Response | None:
        """Let one be computed no further: as it is then; None where it is gone, or over."""
        path = f"{PATH}/{identifier}/cancel"
        async with self._room:
            try:
                found, _ = await self._ask(upstream, "POST", path, b"{}")
            except Refused:
                return None
            except PassingError as error:
                if error.status != CONFLICT:
                    raise
                return None
            return found

    async def delete(self, upstream: str, identifier: str) -> None:
        """Delete one, if it is still there."""
        async with self._room:
            try:
                await self._provider.ask("DELETE", f"{PATH}/{identifier}", _Deleted)
            except Refused:
                return
            except PassingError as error:
                raise self._slowed(upstream, error) from None

    async def let_go(self, upstream: str, identifier: str, *, over: bool, kept: bool) -> None:
        """Leave nothing of one there that nobody needs; ``kept``: the client asked to store it."""
        if not over:
            await self.cancel(upstream, identifier)
        if not kept:
            await self.delete(upstream, identifier)

    async def _ask(
        self, upstream: str, method: str, path: str, body: bytes = b""
    ) -> tuple[Response, Mapping[str, str]]:
        try:
            return await self._provider.ask(method, path, Response, body)
        except PassingError as error:
            raise self._slowed(upstream, error) from None

    def _slowed(self, upstream: str, error: PassingError) -> PassingError:
        """The same error; a rate limit pauses the model for all workers of the backend."""
        if error.status == RATE_LIMITED and not error.counts:
            asked = error.retry_after_seconds
            pause = openai_limits.UNSAID_PAUSE_SECONDS if asked is None else asked
            self._budget.pause(upstream, min(pause, openai_limits.LONGEST_PAUSE_SECONDS))
        return error

    def _heard(self, upstream: str, headers: Mapping[str, str], sent_at: float) -> None:
        limits = openai_limits.read(headers)
        in_flight = self._in_flight[upstream]
        self._budget.heard(upstream, limits, sent_at=sent_at, in_flight=in_flight)
