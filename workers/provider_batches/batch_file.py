"""The file of a provider batch: a line for each of its rows, as many as the provider takes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import IO
from uuid import UUID

import msgspec

from carpool.batch_lines import BYTES_PER_TOKEN
from carpool.states import ENDPOINTS, ServiceClass
from db.provider_batches import NO_ROOM, Member, ProviderBatch
from workers.backends import openai_body
from workers.backends.protocol import Call
from workers.provider_batches.provider import BatchFault

PAGE_ROWS = 1000
LIVE_FIELDS = ("service_tier",)
"""What is said of live calls alone: the window has taken its place."""
INVALID = "invalid_request"
_encode = msgspec.json.Encoder().encode

Bodies = Callable[[Sequence[UUID]], Awaitable[Sequence[tuple[UUID, bytes]]]]
"""The bodies of the first of some requests, as many as it likes, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one file may hold; ``tokens`` None is no limit.

    ``alone``: nothing else is enqueued, and a first line goes however many tokens it has.
    """

    lines: int
    bytes: int
    tokens: int | None = None
    alone: bool = False


@dataclass(kw_only=True, slots=True)
class Contents:
    """What came into a file, and what did not."""

    lines: int = 0
    bytes: int = 0
    tokens: int = 0
    left: list[Member] = field(default_factory=list)
    """Those that the limits left out, and that another file may hold."""
    refused: list[tuple[Member, BatchFault]] = field(default_factory=list)
    """Those that no file can hold, and why."""


def custom_id(member: Member) -> str:
    """By which a line is known again: the request, and the claim."""
    return f"{member.id.hex}.{member.epoch}"


def parse_custom_id(text: str) -> tuple[UUID, int] | None:
    """The inverse; None for what is none of ours."""
    name, _, epoch = text.partition(".")
    try:
        return UUID(hex=name), int(epoch)
    except ValueError:
        return None


def line_of(member: Member, body: bytes, batch: ProviderBatch, *, group: bool = False) -> bytes:
    """A line, newline included; raises msgspec.DecodeError where the body is no JSON object.

    With ``group`` it has the cache key of its prefix group, as live calls do.
    """
    endpoint = ENDPOINTS[batch.endpoint]
    call = Call(
        id=member.id,
        endpoint=endpoint,
        model=batch.model,
        upstream=batch.upstream,
        body=body,
        stream=False,
        service_class=ServiceClass.BATCH,
        team_id=member.team_id,
        prefix_key=member.prefix_key,
    )
    outgoing = openai_body.outgoing(call, group=group)
    fields = msgspec.json.decode(outgoing.body, type=dict[str, msgspec.Raw])
    for name in LIVE_FIELDS:
        fields.pop(name, None)
    asked = _encode(fields)
    if b"\n" in asked or b"\r" in asked:  # between the tokens of what the client sent
        asked = msgspec.json.format(asked, indent=-1)
    return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n' % (
        custom_id(member).encode(),
        endpoint.encode(),
        asked,
    )


def tokens_of(body: bytes) -> int:
    """About how many tokens the provider will count as enqueued."""
    return -(-len(body) // BYTES_PER_TOKEN)


async def write(
    file: IO[bytes],
    batch: ProviderBatch,
    members: Sequence[Member],
    bodies: Bodies,
    *,
    limits: Limits,
    most: Limits,
    group: bool = False,
) -> Contents:
    """Write the lines of the first members that fit, in their order; memory stays flat.

    ``limits`` is what there is room for now, ``most`` what the provider takes at best: a row that
    passes that alone is refused.
    """
    contents = Contents()
    lines: list[bytes] = []
    at = 0
    while at < len(members) and not contents.left:
        page = members[at : at + PAGE_ROWS]
        found = dict(await bodies([member.id for member in page]))
        read = max((n for n, member in enumerate(page) if member.id in found), default=0) + 1
        for member in page[:read]:
            lines.append(
                _add(contents, batch, member, found.get(member.id, b""), limits, most, group)
            )
        at += read
        await asyncio.to_thread(file.write, b"".join(lines))
        lines.clear()
    contents.left += members[at:]
    return contents


def _add(
    contents: Contents,
    batch: ProviderBatch,
    member: Member,
    body: bytes,
    limits: Limits,
    most: Limits,
    group: bool,
) -> bytes:
    """The line of a member that fits; empty, and noted, for one that does not."""
    try:
        line = line_of(member, body, batch, group=group)
    except msgspec.DecodeError as error:
        contents.refused.append((member, BatchFault(INVALID, f"The body is invalid: {error}.")))
        return b""
    tokens = tokens_of(body)
    if len(line) > most.bytes:
        fault = BatchFault(INVALID, "The request is larger than the provider's batches.")
        contents.refused.append((member, fault))
        return b""
    if most.tokens is not None and tokens > most.tokens:
        text = f"The request alone is larger than the limit of {most.tokens} enqueued tokens."
        contents.refused.append((member, BatchFault(NO_ROOM, text)))
        return b""
    if (
        contents.left
        or contents.lines >= limits.lines
        or contents.bytes + len(line) > limits.bytes
        or (
            limits.tokens is not None
            and contents.tokens + tokens > limits.tokens
            and (contents.lines or not limits.alone)
        )
    ):
        contents.left.append(member)
        return b""
    contents.lines += 1
    contents.bytes += len(line)
    contents.tokens += tokens
    return line
