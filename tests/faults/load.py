"""Clients under a fault: what they ask, what they get, and whether Postgres says the same."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import httpx
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI

from carpool.folding import fold
from carpool.states import Outcome
from tests.stack import Stack, eventually

MODEL = "simulated"
SETTLE_SECONDS = 60.0
"""Within this time of a fault every accepted request has ended."""
GAVE_UP = ("still_waiting", "service_unavailable")
CLAIMED = "select count(*) from queue where state = 1"
UNSETTLED = """
select (select count(*) from queue) as waiting, (select count(*) from requests) as requests,
    (select count(*) from results) as results
"""
LEDGER = """
select r.id, convert_from(r.body, 'utf8') as asked, s.outcome, s.status_code, s.streamed,
    convert_from(s.body, 'utf8') as answered, s.epoch, s.attempts
from requests r left join results s on s.id = r.id order by r.id
"""
_numbers = count()


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What one client saw of its request."""

    prompt: str
    text: str
    error: Exception | None

    @property
    def code(self) -> str | None:
        return getattr(self.error, "code", None)

    @property
    def gave_up(self) -> bool:
        """Whether the client does not know how its request ends, and was told so."""
        lost = isinstance(self.error, APIConnectionError | httpx.HTTPError)
        return lost or (isinstance(self.error, APIStatusError) and self.code in GAVE_UP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What Postgres holds of one request; ``text`` of a success alone."""

    outcome: Outcome | None
    status: int | None
    epoch: int | None
    attempts: int | None
    text: str | None
    code: str | None


async def ask(
    client: AsyncOpenAI,
    prompt: str | None = None,
    *,
    stream: bool = False,
    heard: Callable[[str], None] | None = None,
    max_tokens: int | None = None,
    **knobs: Any,
) -> View:
    """Ask once; ``heard`` is called with each piece of a stream, the rest are the simulation's."""
    prompt = prompt or f"prompt {next(_numbers)}"
    options: dict[str, Any] = {"extra_body": {"carpool_simulate": knobs}} if knobs else {}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    messages: Any = [{"role": "user", "content": prompt}]
    text = ""
    try:
        if stream:
            opened = await client.chat.completions.create(
                model=MODEL, messages=messages, stream=True, **options
            )
            async with opened:
                async for chunk in opened:
                    piece = chunk.choices[0].delta.content or ""
                    text += piece
                    if heard is not None and piece:
                        heard(piece)
        else:
            answer = await client.chat.completions.create(model=MODEL, messages=messages, **options)
            text = answer.choices[0].message.content or ""
    except (APIError, httpx.HTTPError) as error:
        return View(prompt=prompt, text=text, error=error)
    return View(prompt=prompt, text=text, error=None)


class Load:
    """Clients that ask again and again until the context ends; `views` holds what they saw."""

    def __init__(self, client: AsyncOpenAI, *, clients: int, **asked: Any) -> None:
        self.views: list[View] = []
        self._client = client
        self._clients = clients
        self._asked = asked
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._serve(n)) for n in range(self._clients)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ended.set()
        await asyncio.gather(*self._tasks)

    async def more(self, number: int) -> None:
        """Return when so many more have been answered."""
        aim = len(self.views) + number

        async def reached() -> bool:
            return len(self.views) >= aim

        await eventually(reached, SETTLE_SECONDS)

    async def _serve(self, number: int) -> None:
        while not self._ended.is_set():
            view = await ask(self._client, stream=number % 2 == 0, **self._asked)
            self.views.append(view)
            if view.error is not None:  # a refused connection comes back at once
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._ended.wait()


async def in_flight(stack: Stack, number: int, seconds: float = SETTLE_SECONDS) -> None:
    """Return when so many requests are claimed."""

    async def reached() -> bool:
        return bool(await stack.value(CLAIMED) >= number)

    await eventually(reached, seconds)


async def begun(heard: Iterable[Sequence[str]]) -> None:
    """Return when a piece of each of these streams was heard."""

    async def all_begun() -> bool:
        return all(heard)

    await eventually(all_begun, SETTLE_SECONDS)


async def settled(stack: Stack, seconds: float = SETTLE_SECONDS) -> None:
    """Return when every accepted request has ended with a result; asserts that it does in time."""
    last: Any = None

    async def ended() -> bool:
        nonlocal last
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            [last] = await stack.fetch(UNSETTLED)
            return bool(last["waiting"] == 0 and last["requests"] == last["results"])
        return False

    try:
        await eventually(ended, seconds)
    except TimeoutError:
        raise AssertionError(f"not settled: {last}\n{stack.output()[-6000:]}") from None


async def ledger(stack: Stack) -> dict[str, list[Stored]]:
    """All requests by their prompts."""
    found: dict[str, list[Stored]] = {}
    for row in await stack.fetch(LEDGER):
        prompt = json.loads(row["asked"])["messages"][0]["content"]
        found.setdefault(prompt, []).append(_stored(row))
    return found


async def agree(stack: Stack, views: Iterable[View]) -> dict[str, list[Stored]]:
    """Assert that each client saw what Postgres holds; returns the ledger."""
    held = await ledger(stack)
    for view in views:
        stored = held.get(view.prompt, [])
        if view.gave_up:
            continue
        if view.error is None:
            assert any(s.outcome is Outcome.COMPLETED and s.text == view.text for s in stored), (
                view,
                stored,
            )
        else:
            assert stored, view
            assert all(s.outcome is not Outcome.COMPLETED for s in stored), (view, stored)
            assert view.code in {s.code for s in stored}, (view, stored)
    return held


async def gathered(asking: Iterable[Awaitable[View]]) -> list[View]:
    """The views of all, in their order."""
    return await asyncio.gather(*asking)


def answered(views: Iterable[View]) -> None:
    """Assert that every client got an answer."""
    errors = [view for view in views if view.error is not None]
    assert not errors, (len(errors), errors[:3])


def _stored(row: Any) -> Stored:
    text = code = None
    if row["outcome"] == Outcome.COMPLETED:
        if row["streamed"]:
            whole = fold(json.loads(line) for line in row["answered"].splitlines())
        else:
            whole = json.loads(row["answered"])
        text = whole["choices"][0]["message"]["content"]
    elif row["answered"] is not None:
        code = json.loads(row["answered"])["error"]["code"]
    return Stored(
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        status=row["status_code"],
        epoch=row["epoch"],
        attempts=row["attempts"],
        text=text,
        code=code,
    )
