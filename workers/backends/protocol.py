"""What a run needs of a backend: a place that answers requests, many at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from carpool.engine import EngineFigures
from carpool.states import Endpoint, ServiceClass


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One claimed request, as a backend sees it."""

    id: UUID
    endpoint: Endpoint
    model: str
    """The name that the client asked for; answers and chunks carry it in ``model``."""
    upstream: str
    """The name under which the backend knows the model."""
    body: bytes
    """The client's JSON, as it was sent."""
    stream: bool
    team_id: int
    prefix_key: int
    """Of requests that share a long prefix the leading bits are the same (carpool.prefix)."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens, as the backend counted them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    """Into the provider's cache; like the cached ones, some of the prompt's."""
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The end of a call: success (status 200) or a lasting error (OpenAI's error JSON).

    ``body`` is the JSON of the answer; for a streamed success it is empty, for the chunks that were
    emitted are the answer.
    """

    status: int = 200
    body: bytes = b""
    usage: Usage = field(default_factory=Usage)


Emit = Callable[[bytes], None]
"""Takes the JSON of one chunk of a stream (no ``data:`` framing, no ``[DONE]``); never blocks."""


class Backend(Protocol):
    """A place that answers requests. One object serves one worker process.

    ``answer`` is cancelled to abort a request; when it returns from its cancellation the engine
    computes no more for it.
    """

    name: str

    @property
    def capacity(self) -> int:
        """How many calls it takes at once now, look-ahead included; valid once started."""

    async def start(self) -> None:
        """Make it ready: load the engine, open the pool. Raises ConfigurationError or OSError."""

    async def models(self) -> list[str]:
        """The upstream model names that it serves, valid once started."""

    async def answer(self, call: Call, emit: Emit) -> Answer:
        """Run one call to its end.

        A streamed call emits each chunk as the engine makes it. Raises PassingError where another
        attempt may succeed, EngineDied where the engine is gone.
        """

    def shut(self) -> Mapping[str, float]:
        """The upstream models of which no call may start now, and for how many seconds; quick."""

    async def admit(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """How many calls of each upstream model may start now, of those wanted; never raises.

        They are taken off what all workers of the backend share. Those of them that do not start
        are given back by `unused`, before the next `admit`.
        """

    async def unused(self, calls: Mapping[str, int]) -> None:
        """Give back calls that the last `admit` let start and that did not; never raises."""

    async def health(self) -> None:
        """Return if it can answer now; raise EngineDied or PassingError otherwise."""

    def figures(self) -> EngineFigures | None:
        """What its engine says of itself now; None where it says nothing. Quick, never raises."""

    async def close(self) -> None:
        """End the engine and free what it holds; safe to call twice, and before ``start``."""
