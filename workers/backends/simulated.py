"""A backend that makes up deterministic text at a set pace: no GPU, no key, no cost.

A request's answer follows from its prompt. It has as many tokens as ``max_completion_tokens`` or
``max_tokens`` asks for (``finish_reason: length``), else 16 (``stop``). A word is a token.

For tests, a body may carry knobs::

    "carpool_simulate": {
        "status": 429,                  fail with this status: lasting for a 4xx except 408, 409 and
                                        429 (the answer is the error), passing for all else
        "times": 2,                     fail only the first two attempts of this request that this
                                        process sees; without it every attempt fails
        "retry_after_seconds": 0.5,     carried by the passing error
        "break_after": 3,               fail not at once, but after three emitted chunks of a stream
        "milliseconds_per_token": 50,   the pace of this request, its first token included
        "die": true                     the worker's process kills itself (SIGKILL) where the
                                        request would fail
    }
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from uuid import UUID

import msgspec

from carpool.engine import EngineFigures
from carpool.errors import PassingError, error_body
from carpool.settings import SIMULATED_MODEL, SimulatedSettings
from carpool.states import Endpoint
from workers.backends.protocol import Answer, Call, Emit
from workers.backends.refusal import RefusedError
from workers.backends.simulated_reply import (
    Chat,
    Completion,
    Embedded,
    Generated,
    Knobs,
)

PASSING_STATUSES = frozenset({408, 409, 429})

_encode = msgspec.json.Encoder().encode


class SimulatedBackend:
    """Answers chat, completions and embeddings; ``running`` is how many it holds at the moment."""

    def __init__(self, name: str, settings: SimulatedSettings) -> None:
        self.name = name
        self.capacity = settings.slots
        self.running = 0
        self._first_token_seconds = settings.first_token_milliseconds / 1000
        self._token_seconds = settings.token_milliseconds / 1000
        self._failures: dict[UUID, int] = {}

    async def start(self) -> None:
        """Nothing is to be loaded."""

    async def models(self) -> list[str]:
        return [SIMULATED_MODEL]

    async def answer(self, call: Call, emit: Emit) -> Answer:
        self.running += 1
        try:
            reply = _read(call)
            if call.stream and isinstance(reply, Generated):
                await self._stream(call, reply, emit)
                return Answer(usage=reply.usage)
            await self._wait(call, reply)
            return Answer(body=_encode(reply.whole()), usage=reply.usage)
        except RefusedError as refused:
            return refused.answer
        except msgspec.DecodeError as error:
            return _invalid(error)
        finally:
            self.running -= 1

    def shut(self) -> Mapping[str, float]:
        return {}

    async def admit(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        return wanted

    async def unused(self, calls: Mapping[str, int]) -> None:
        """Nothing is shared with other workers."""

    async def health(self) -> None:
        """It is always well."""

    def figures(self) -> EngineFigures | None:
        return EngineFigures(running=self.running)

    async def close(self) -> None:
        """Nothing is held."""

    async def _wait(self, call: Call, reply: Generated | Embedded) -> None:
        """Take the time of an answer that comes as a whole, or fail as the knobs say."""
        if reply.knobs is not None:
            self._meddle(call, reply.knobs)
        first, then = self._pace(reply.knobs)
        later_tokens = reply.length - 1 if isinstance(reply, Generated) else 0
        if seconds := first + then * later_tokens:
            await asyncio.sleep(seconds)

    async def _stream(self, call: Call, reply: Generated, emit: Emit) -> None:
        """Emit each chunk in its time; with no delay all at once."""
        delay, then = self._pace(reply.knobs)
        for index, chunk in enumerate(reply.chunks()):
            if reply.knobs is not None and index == reply.knobs.break_after:
                self._meddle(call, reply.knobs)
            if delay:
                await asyncio.sleep(delay)
            delay = then
            emit(_encode(chunk))

    def _pace(self, knobs: Knobs | None) -> tuple[float, float]:
        """Seconds until the first token, and between those that follow."""
        if knobs is None or knobs.milliseconds_per_token is None:
            return self._first_token_seconds, self._token_seconds
        seconds = knobs.milliseconds_per_token / 1000
        return seconds, seconds

    def _meddle(self, call: Call, knobs: Knobs) -> None:
        if knobs.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if knobs.status is None or self._failed_enough(call, knobs):
            return
        message = f"simulated: failed with status {knobs.status}, as asked"
        if 400 <= knobs.status < 500 and knobs.status not in PASSING_STATUSES:
            raise RefusedError(message, status=knobs.status, code="simulated")
        raise PassingError(
            message,
            status=knobs.status,
            body=error_body(message, "server_error", code="simulated"),
            retry_after_seconds=knobs.retry_after_seconds,
        )

    def _failed_enough(self, call: Call, knobs: Knobs) -> bool:
        if knobs.times is None:
            return False
        failures = self._failures.pop(call.id, 0)
        if failures >= knobs.times:
            return True
        self._failures[call.id] = failures + 1
        return False


def _read(call: Call) -> Generated | Embedded:
    match call.endpoint:
        case Endpoint.CHAT:
            return Chat(call)
        case Endpoint.COMPLETIONS:
            return Completion(call)
        case Endpoint.EMBEDDINGS:
            return Embedded(call)


def _invalid(error: msgspec.DecodeError) -> Answer:
    """msgspec names the place: ``Expected `int`, got `str` - at `$.max_tokens```."""
    text = str(error)
    missing = text.partition("missing required field `")[2].partition("`")[0]
    place = text.partition(" - at `$.")[2].rstrip("`")
    message = f"Missing required parameter: '{missing}'." if missing and not place else text
    return RefusedError(message, param=place or missing or None).answer
