"""The budgets that all workers of a backend share, as its provider's headers tell them.

Each model, by its name upstream, has two token buckets, of requests and of tokens, in Postgres's
own clock. OpenAI's limits are per minute, so a bucket holds ``limit`` and refills at ``limit / 60``
a second. A call is taken off before it is sent: what the provider says is left is therefore at
least what is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from db.database import Fetches
from db.sql import load

RESERVE = load("reserve")
OBSERVE = load("observe")
LIMITED = "select upstream from model_limits where backend = $1"
GIVE_BACK = """
update model_limits set
    requests_left = least(requests_limit, requests_left + $3::float8),
    tokens_left = least(tokens_limit, tokens_left + $3::float8 * $4::float8)
where backend = $1 and upstream = $2
"""
# `greatest` passes over null.
PAUSE = """
insert into model_limits as m (backend, upstream, paused_until)
values ($1, $2, clock_timestamp() + make_interval(secs => $3))
on conflict (backend, upstream) do update
    set paused_until = greatest(m.paused_until, excluded.paused_until)
"""

WINDOW_SECONDS = 60.0
"""In which an empty bucket is full again."""


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket: how much it holds, above 0, and how much is left in it, at most that."""

    limit: float
    left: float

    def after(self, seconds: float) -> "Level":
        """The same bucket so much later, with nothing taken from it; before, where negative."""
        left = self.left + self.limit / WINDOW_SECONDS * seconds
        return Level(self.limit, min(self.limit, max(0.0, left)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a provider says of a model's limits; None for one that it does not name."""

    requests: Level | None = None
    tokens: Level | None = None

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def after(self, seconds: float) -> "Observation":
        """What can be left so much later."""
        return Observation(
            requests=self.requests and self.requests.after(seconds),
            tokens=self.tokens and self.tokens.after(seconds),
        )

    def joined(self, newer: "Observation") -> "Observation":
        """The newer's limits with the lower of the levels; answers overtake each other."""
        return Observation(
            requests=_joined(self.requests, newer.requests),
            tokens=_joined(self.tokens, newer.tokens),
        )


class Grant(NamedTuple):
    """How many calls may start, after how many seconds more may, and whether limits are known."""

    number: int
    wait_seconds: float
    limited: bool


class Calls(NamedTuple):
    """So many calls, each of about so many tokens."""

    number: int
    tokens_each: float


async def limited(database: Fetches, backend: str) -> list[str]:
    """The models of a backend of which a limit or a pause is known."""
    return [row[0] for row in await database.fetch(LIMITED, backend)]


async def reserve(database: Fetches, backend: str, wanted: Mapping[str, Calls]) -> dict[str, Grant]:
    """Take up to so many calls of each model off its budget.

    None is granted while a model is paused, all that are wanted where no limits are known.
    """
    numbers = [float(calls.number) for calls in wanted.values()]
    tokens = [calls.tokens_each for calls in wanted.values()]
    rows = await database.fetch(RESERVE, backend, list(wanted), numbers, tokens)
    return {upstream: Grant(*grant) for upstream, *grant in rows}


async def give_back(database: Fetches, backend: str, upstream: str, calls: Calls) -> None:
    """Return calls that were granted and not started."""
    await database.fetch(GIVE_BACK, backend, upstream, float(calls.number), calls.tokens_each)


async def observe(
    database: Fetches,
    backend: str,
    upstream: str,
    observation: Observation,
    *,
    in_flight: int = 0,
    tokens_each: float = 0.0,
) -> None:
    """Learn a model's limits, and lower the levels to what the provider says is left.

    A level never rises by it: an answer may be older than what others have reserved since. Calls
    ``in_flight`` were sent before there was a budget; the first observation is without them.
    """
    requests, tokens = observation.requests, observation.tokens
    await database.fetch(
        OBSERVE,
        backend,
        upstream,
        requests and requests.limit,
        requests and requests.left,
        tokens and tokens.limit,
        tokens and tokens.left,
        float(in_flight),
        tokens_each,
    )


async def pause(database: Fetches, backend: str, upstream: str, seconds: float) -> None:
    """Let no worker start a call of a model for so long; a longer pause stays."""
    await database.fetch(PAUSE, backend, upstream, seconds)


def _joined(older: Level | None, newer: Level | None) -> Level | None:
    if older is None or newer is None:
        return newer or older
    return Level(newer.limit, min(older.left, newer.left))
