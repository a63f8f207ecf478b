"""The first transition: a request is stored and waits."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from db.database import Fetches, Lane
from db.follow import Origin
from db.sql import load

SUBMIT = load("submit")
SUBMIT_TWINS = load("submit_twins")
STORED = """
select r.id from unnest($1::uuid[]) as asked(id) join requests r on r.id = asked.id
"""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it is stored.

    ``fingerprint`` is a hash of team, path and body; ``incarnation`` and ``channel`` name the API
    process that waits for it, and are None where no one does; ``share`` is a bucket of the traffic,
    or None where the model's route cuts none.
    """

    id: UUID
    team_id: int
    key_id: UUID
    person: str | None
    service_class: int
    endpoint: int
    model: str
    streamed: bool
    body: bytes
    fingerprint: UUID
    incarnation: UUID | None = None
    channel: UUID | None = None
    share: int | None
    prefix_key: int
    deadline: datetime | None = None
    shareable: bool = False
    """Whether it may be given the answer of an identical one, and its answer to others."""
    traceparent: str | None = None
    """Of the span that took it in (W3C Trace Context); None where it is not traced."""


async def submit(lane: Lane, items: Sequence[Submission], again: bool) -> Sequence[Origin | None]:
    """Store all items, or none; ``again`` says that some may be stored already.

    For each that a run is to be told of, because it follows what the run has: where its chunks are.
    """
    new = items
    if again:
        rows = await lane.fetch(STORED, [item.id for item in items])
        stored = {row["id"] for row in rows}
        new = [item for item in items if item.id not in stored]
    origins = await _store(lane, new)
    return [origins.get(item.id) for item in items] if origins else [None] * len(items)


async def store_submission(item: Submission, driver: Fetches) -> None:
    """Store one in a transaction of the caller's."""
    await _store(driver, [item])


async def _store(fetches: Fetches, items: Sequence[Submission]) -> dict[UUID, Origin]:
    twins = [item for item in items if item.shareable]
    others = [item for item in items if not item.shareable] if twins else items
    if others:
        await fetches.fetch(SUBMIT, *columns(others))
    if not twins:
        return {}
    rows = await fetches.fetch(SUBMIT_TWINS, *columns(twins))
    return {row["id"]: Origin(row["leader"], row["run"]) for row in rows}


def columns(items: Sequence[Submission]) -> tuple[list[object], ...]:
    """The items as the arrays that ``submit.sql`` takes."""
    return (
        [item.id for item in items],
        [item.team_id for item in items],
        [item.key_id for item in items],
        [item.person for item in items],
        [item.service_class for item in items],
        [item.endpoint for item in items],
        [item.model for item in items],
        [item.streamed for item in items],
        [item.body for item in items],
        [item.fingerprint for item in items],
        [item.incarnation for item in items],
        [item.channel for item in items],
        [item.share for item in items],
        [item.prefix_key for item in items],
        [item.deadline for item in items],
        [item.traceparent for item in items],
    )
