"""Rows 1 to 4: what a client of an OpenAI-compatible server sees, Carpool or another."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.chat import Target
from tests.benchmarks.cpu import Bystanders
from tests.benchmarks.load import Load, load
from tests.benchmarks.stream_client import first_chunks, read_stream
from tests.benchmarks.table import Measured

WARM_UP_SECONDS = 2
FIRST_CHUNK_SAMPLES = 300
CHUNKS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long is measured."""

    rounds: int
    seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One row for one server; ``answered`` counts the warm-up too."""

    measured: Measured
    answered: int
    problem: str | None = None


def completions(target: Target, pace: Pace) -> Served:
    """Row 1: chat completions a second at concurrency 256."""
    others, loads = Bystanders(), _loads(target, pace, connections=256)
    return _served(loads, others, [each.per_second for each in loads[1:]])


def latency(target: Target, pace: Pace) -> Served:
    """Row 2: the median milliseconds of a chat completion at concurrency 1."""
    others, loads = Bystanders(), _loads(target, pace, connections=1)
    return _served(loads, others, [1000 * each.median_seconds for each in loads[1:]])


def first_token(target: Target, pace: Pace) -> Served:
    """Row 3: the median milliseconds to a stream's first chunk at concurrency 1."""
    others = Bystanders()
    asyncio.run(first_chunks(target, FIRST_CHUNK_SAMPLES // 10))
    samples = asyncio.run(first_chunks(target, FIRST_CHUNK_SAMPLES))
    size = max(FIRST_CHUNK_SAMPLES // pace.rounds, 1)
    parts = [samples[begin : begin + size] for begin in range(0, len(samples), size)]
    rounds = [1000 * median(part) for part in parts]
    return Served(measured=Measured(tuple(rounds), others.percent()), answered=len(samples))


def streams(target: Target, pace: Pace) -> Served:
    """Row 4: streams a second at concurrency 32, each read to its `[DONE]`."""
    others, loads = Bystanders(), _loads(target, pace, connections=32, stream=True)
    served = _served(loads, others, [each.whole / each.seconds for each in loads[1:]])
    cut = sum(each.answered - each.whole for each in loads)
    if cut and served.problem is None:
        return Served(
            measured=served.measured,
            answered=served.answered,
            problem=f"{cut} of {served.answered} streams did not end in [DONE]",
        )
    return served


def check(target: Target, *, chunks: int | None = CHUNKS) -> None:
    """Wait for one stream, and see that it is the one that is meant to be measured."""
    events = asyncio.run(read_stream(target))
    if events[-1:] != ["[DONE]"] or (chunks is not None and len(events) - 1 != chunks):
        raise SystemExit(f"{target.base_url} streamed, in place of {chunks} chunks: {events}")


MEASURES = {1: completions, 2: latency, 3: first_token, 4: streams}


def _loads(target: Target, pace: Pace, *, connections: int, stream: bool = False) -> list[Load]:
    """A warm-up, then the rounds, each begun when the server is done with the one before."""
    loads = []
    for seconds in (WARM_UP_SECONDS, *[pace.seconds] * pace.rounds):
        loads.append(load(target, connections=connections, seconds=seconds, stream=stream))
        # wrk leaves unanswered what is in flight at its end; a slow server takes seconds over it.
        asyncio.run(read_stream(target))
    return loads


def _served(loads: list[Load], others: Bystanders, values: Iterable[float]) -> Served:
    failures = sum(each.failures for each in loads)
    refused = sum(each.refused for each in loads)
    problem = f"{refused} answers were no 2xx, {failures - refused} broke" if failures else None
    return Served(
        measured=Measured(tuple(values), others.percent()),
        answered=sum(each.answered for each in loads),
        problem=problem,
    )
