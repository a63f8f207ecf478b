"""The requests of a benchmark: bodies without a model, to be sent to each."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from carpool.states import Endpoint
from cli.bench.prompts import make_prompt
from cli.bulk.faults import BadInput, Faults
from cli.bulk.options import Options
from cli.bulk.rows import Kind, kind_of, read_rows
from cli.bulk.source import Source

DEFAULT_REQUESTS = 200
DEFAULT_PROMPT_TOKENS = 256
DEFAULT_OUTPUT_TOKENS = 128
MOST_REQUESTS = 100_000
"""All of them, and what each took, are held in memory."""
WARM_UP_OUTPUT_TOKENS = 16
WARM_UP_NUMBER = 1_000_000_000
"""Its prompts have numbers from here on, so that the measured ones are new to every cache."""
LATER_MODEL = "-"
"""Stands where a model will."""

Body = dict[str, Any]


class _Line(msgspec.Struct):
    body: Body


_decode = msgspec.json.Decoder(_Line).decode


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to each model, in this order; ``bodies`` are repeated where they are fewer."""

    described: str
    bodies: Sequence[Body]
    requests: int

    def body(self, number: int) -> Body:
        """Of the request of a number, 0-based."""
        return self.bodies[number % len(self.bodies)]


def synthetic(*, requests: int, prompt_tokens: int, max_tokens: int, seed: int) -> Workload:
    """Prompts that are made up."""
    return Workload(
        described=f"synthetic, {prompt_tokens:,} tokens in, at most {max_tokens:,} out, "
        f"seed {seed}",
        bodies=[
            _chat(make_prompt(number, tokens=prompt_tokens, seed=seed), max_tokens)
            for number in range(requests)
        ],
        requests=requests,
    )


def warm_up(*, requests: int, seed: int) -> list[Body]:
    """Short requests that no workload holds."""
    numbers = range(WARM_UP_NUMBER, WARM_UP_NUMBER + requests)
    return [
        _chat(make_prompt(number, tokens=DEFAULT_PROMPT_TOKENS, seed=seed), WARM_UP_OUTPUT_TOKENS)
        for number in numbers
    ]


def read_workload(path: Path, *, requests: int | None, max_tokens: int | None) -> Workload:
    """The first requests of a file, all of them unless told; raises BadInput.

    It is JSONL of chat bodies or in OpenAI's batch format, or each row is a prompt (see
    :mod:`cli.bulk.source`), whose answer then has at most ``max_tokens``.
    """
    faults = Faults(path)
    try:
        if not path.is_file():
            raise BadInput(f"--input: there is no file {path}")
        bodies = list(islice(_bodies(path, max_tokens, faults), requests or MOST_REQUESTS + 1))
    except OSError as error:
        raise BadInput(f"--input: cannot read {path}: {error.strerror}") from error
    faults.check()
    if not bodies:
        raise BadInput(f"--input: {path} holds no request")
    if len(bodies) > MOST_REQUESTS:
        raise BadInput(f"--input: {path} holds more than {MOST_REQUESTS:,}; say how many to take")
    count = requests or len(bodies)
    repeated = "" if len(bodies) == count else f" ({len(bodies):,} of them, repeated)"
    return Workload(described=f"{path.name}{repeated}", bodies=bodies, requests=count)


def _bodies(path: Path, max_tokens: int | None, faults: Faults) -> Iterator[Body]:
    kind = kind_of(path)
    chats = kind is Kind.JSONL and _begins_with_chat(path)
    if max_tokens is not None and (chats or kind is Kind.REQUESTS):
        raise BadInput(f"--max-tokens: the requests of {path.name} are sent as they are")
    if chats:
        yield from _chats(path, faults)
        return
    options = Options(endpoint=Endpoint.CHAT, model=LATER_MODEL, max_tokens=max_tokens)
    for request in Source(path, kind, options).requests(faults):
        try:
            yield _streamed(_decode(request.line).body)
        except msgspec.DecodeError as error:
            faults.add(request.row.line, f"cannot be sent: {error}")


def _chats(path: Path, faults: Faults) -> Iterator[Body]:
    for row in read_rows(path, Kind.JSONL, faults):
        if isinstance(row.fields.get("messages"), list):
            yield _streamed(row.fields)
        else:
            faults.add(row.line, "has no list 'messages', as the first line has")


def _begins_with_chat(path: Path) -> bool:
    first = next(read_rows(path, Kind.JSONL, Faults(path)), None)
    return first is not None and isinstance(first.fields.get("messages"), list)


def _chat(prompt: str, max_tokens: int) -> Body:
    said = {"messages": [{"role": "user", "content": prompt}]}
    return _streamed(said | {"max_completion_tokens": max_tokens})


def _streamed(body: Body) -> Body:
    """Without its model, as a stream that tells at its end how many tokens it took."""
    options = body.get("stream_options")
    told = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    rest = {name: value for name, value in body.items() if name != "model"}
    return {**rest, "stream": True, "stream_options": told}
