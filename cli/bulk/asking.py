"""Asking a Carpool, with patience where it cannot be reached; the one place for openai's errors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import openai

from cli.bulk.faults import BadInput, CannotGoOn, printable

GIVE_UP_SECONDS = 600.0
"""Of an outage without break."""
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 15.0
PASSING_STATUSES = frozenset({408, 429})
BAD_INPUT_STATUSES = frozenset({400, 413, 422})

Answer = TypeVar("Answer")


class Asking:
    """Asks again what fails in passing, and says so once for each outage."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        give_up_seconds: float = GIVE_UP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._say = say
        self._give_up_seconds = give_up_seconds
        self._clock = clock
        self._sleep = sleep
        self._since: float | None = None
        """When the outage began; shared by all that ask at the same time."""

    async def __call__(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What ``ask`` answers; it must be safe to be asked again.

        Raises CannotGoOn, or BadInput for what the server will never take.
        """
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                answer = await ask()
            except openai.OpenAIError as error:
                if not passing(error):
                    raise translated(error) from error
                await self._wait(error, delay)
                delay = min(delay * 2, MAX_DELAY_SECONDS)
            else:
                self._reached()
                return answer

    async def _wait(self, error: openai.OpenAIError, delay: float) -> None:
        now = self._clock()
        if self._since is None:
            self._since = now
            self._say(
                f"{described(error)} Trying again for up to {self._give_up_seconds / 60:.0f} min."
            )
        elif now - self._since >= self._give_up_seconds:
            raise CannotGoOn(described(error)) from error
        await self._sleep(max(delay, wished_seconds(error)))

    def _reached(self) -> None:
        if self._since is not None:
            self._since = None
            self._say("The server answers again.")


async def asked_once(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What ``ask`` answers at the first try; raises what :func:`translated` gives."""
    try:
        return await ask()
    except openai.OpenAIError as error:
        raise translated(error) from error


def translated(error: openai.OpenAIError) -> BadInput | CannotGoOn:
    """Whose fault it is."""
    if isinstance(error, openai.APIStatusError) and error.status_code in BAD_INPUT_STATUSES:
        return BadInput(described(error))
    return CannotGoOn(described(error))


def passing(error: openai.OpenAIError) -> bool:
    """Whether the same may well succeed later; the server's own word counts first."""
    if isinstance(error, openai.APIStatusError):
        word = error.response.headers.get("x-should-retry")
        if word in {"true", "false"}:
            return bool(word == "true")
        return error.status_code in PASSING_STATUSES or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def wished_seconds(error: openai.OpenAIError) -> float:
    """How long the server asks to be left alone, at most two minutes (COMPAT section 3)."""
    if not isinstance(error, openai.APIStatusError):
        return 0
    try:
        seconds = float(error.response.headers.get("retry-after", 0))
    except ValueError:
        return 0
    return seconds if 0 < seconds <= 120 else 0


def described(error: openai.OpenAIError) -> str:
    """In one sentence, without a key."""
    if isinstance(error, openai.APIStatusError):
        body = error.body
        message = body.get("message") if isinstance(body, dict) else None
        said = str(message or error.message).strip()
        return printable(f"The server says {error.status_code}: {said[:500]}")
    if isinstance(error, openai.APIConnectionError):
        what = "does not answer in time" if isinstance(error, openai.APITimeoutError) else "is away"
        cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) else ""
        return printable(f"The server at {error.request.url.host} {what}{cause}.")
    return printable(f"The server's answer makes no sense: {error}")
