"""Provider batches: what waits is gathered into them, and how each moves on.

A step names the state and the keeper that it leaves; where it changes no row, another process keeps
the batch by now, and LostError is raised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from carpool.states import ProviderBatchState, ServiceClass
from db.claim import Group
from db.database import Fetches, Lane
from db.pages import bounded
from db.sql import load

GATHER = load("gather")
# Streams are answered live. The deadlines are taken to the minute, so that there are few.
SURVEY = """
select w.endpoint, w.batch_id, date_bin('1 minute', w.deadline, 'epoch') as deadline,
    count(*)::integer as rows
from (
    select q.endpoint, q.batch_id, q.deadline, q.streamed from queue q
    where q.model = $1 and q.team_id = $2 and q.rank = $3 and q.state = 0 and q.class = {class_}
        and q.share is null
    order by {order} limit $4
) w
where not w.streamed
group by 1, 2, 3
"""
SURVEY_BY_PREFIX = SURVEY.format(class_=2, order="q.prefix_key, q.id")
SURVEY_BY_AGE = SURVEY.format(class_=1, order="q.id")
# Those of batches that are stopped are left to the sweep.
DEADLINES = """
select id, expires_at from batches where id = any($1::uuid[]) and status = 1 and not expiring
"""
COLUMNS = """
id, backend, model, upstream, endpoint, completion_window, reason, state, deadline, lines, bytes,
tokens, input_file, provider_id, provider_status, output_file, error_file, created_at, submitted_at
"""
# A heartbeat that finds a batch adopted by another leaves it there.
RENEW = """
update provider_batches set kept_until = now() + make_interval(secs => $3)
where backend = $1 and keeper = $2 and state < 3
returning id
"""
ADOPT = f"""
update provider_batches set keeper = $2, kept_until = now() + make_interval(secs => $3)
where id = any(array(
    select id from provider_batches
    where backend = $1 and state < 3
        and (
            kept_until is null or kept_until < now()
            or not exists (select from runs r where r.id = keeper and r.ended_at is null)
        )
    order by id for update skip locked
))
returning {COLUMNS}
"""  # noqa: S608 - our own text
DISOWN = """
update provider_batches set keeper = null, kept_until = null
where backend = $1 and keeper = $2 and state < 3
"""
STEP = (
    """
update provider_batches set {change}
where id = $1 and keeper = $2 and state = {state} and kept_until > now()
returning """
    + COLUMNS
)
MEASURED = STEP.format(change="lines = $3, bytes = $4, tokens = $5", state=0)
UPLOADED = STEP.format(change="state = 1, input_file = $3", state=0)
RECALLED = STEP.format(change="state = 0, input_file = null", state=1)
SUBMITTED = STEP.format(
    change="state = 2, provider_id = $3, provider_status = $4, submitted_at = now()", state=1
)
WATCHED = STEP.format(change="provider_status = $3, output_file = $4, error_file = $5", state=2)
# Never while it owns a row: nobody would return that.
ENDED = STEP.format(
    change="state = 3, keeper = null, kept_until = null, error = $3, ended_at = now()",
    state="any('{0,1,2}')",
).replace("returning", "and not exists (select from queue q where q.owner = $1) returning")
FIND = f"select {COLUMNS} from provider_batches where id = $1"  # noqa: S608 - our own text
MEMBERS = """
select id, epoch, attempts, team_id, prefix_key from queue where owner = $1 order by prefix_key, id
"""
ANY_MEMBER = "select 1 from queue where owner = $1 limit 1"
COUNT_MEMBERS = "select count(*) from queue where owner = $1"
BODIES = bounded(
    """
    select asked.place, r.id, r.body
    from unnest($1::uuid[]) with ordinality as asked(id, place) join requests r on r.id = asked.id
    """,
    "place",
)
OPEN_TOKENS = """
select coalesce(sum(tokens), 0)::bigint as tokens from provider_batches
where backend = $1 and state < 3 and upstream = $2 and id <> $3
"""
DURATIONS = """
select recent.completion_window, recent.seconds
from unnest($2::text[]) as w(completion_window)
cross join lateral (
    select p.completion_window, extract(epoch from p.ended_at - p.submitted_at)::float8 as seconds
    from provider_batches p
    where p.backend = $1 and p.completion_window = w.completion_window and p.state = 3
        and p.provider_status in ('completed', 'expired')
    order by p.ended_at desc limit $3
) recent
"""
PAUSED = """
select p.upstream
from unnest($2::text[]) as w(completion_window)
join provider_batches p on p.backend = $1 and p.completion_window = w.completion_window
where p.state = 3 and p.ended_at > now() - make_interval(secs => $3) and p.error = $4
"""

RECENT_BATCHES = 200
"""From so many of a window, the last ones, its waiting times are learned."""
NO_ROOM = "token_limit_exceeded"
"""The error of a provider batch that the provider's enqueued-token limit kept out."""


class LostError(Exception):
    """The provider batch is kept by another process, or has ended."""


class ProviderBatch(msgspec.Struct, frozen=True):
    """A row of ``provider_batches``; in the columns' order."""

    id: UUID
    backend: str
    model: str
    """The name that clients ask for."""
    upstream: str
    endpoint: int
    window: str
    reason: str
    """Why it went to this window."""
    state: int
    deadline: datetime | None
    """The earliest of its rows."""
    lines: int
    bytes: int
    tokens: int
    """Of its prompts, estimated."""
    input_file: str | None
    provider_id: str | None
    provider_status: str | None
    output_file: str | None
    error_file: str | None
    created_at: datetime
    submitted_at: datetime | None


class Waiters(msgspec.Struct, frozen=True):
    """Rows of a group that wait, and could be gathered: those of an endpoint and a deadline."""

    group: Group
    endpoint: int
    batch_id: UUID | None
    deadline: datetime | None
    rows: int


class Member(msgspec.Struct, frozen=True):
    """A row that a provider batch owns."""

    id: UUID
    epoch: int
    attempts: int
    team_id: int
    prefix_key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathering:
    """What is to become one provider batch: so many rows of each group, if they fit."""

    id: UUID
    backend: str
    model: str
    upstream: str
    endpoint: int
    window: str
    reason: str
    takes: Mapping[Group, int]
    rows: int
    """How many rows of each group are looked at; those of `survey`."""
    batches: Sequence[UUID]
    """Whose rows fit the window."""
    earliest: datetime
    """Before it, the deadline of a row by itself does not fit the window."""
    before: datetime | None
    """From it on, another window fits a row by itself better."""
    deadline: datetime | None


async def survey(lane: Lane, groups: Sequence[Group], *, rows: int) -> list[Waiters]:
    """What waits among the first so many rows of each group, but for what cannot be gathered."""
    found = []
    for group in groups:
        batch = group.cell.service_class is ServiceClass.BATCH
        query = SURVEY_BY_PREFIX if batch else SURVEY_BY_AGE
        seen = await lane.fetch(query, group.cell.model, group.team_id, group.rank, rows)
        found += [Waiters(group, *row) for row in seen]
    batches = list({waiters.batch_id for waiters in found} - {None})
    if not batches:
        return found
    deadlines = dict(await lane.fetch(DEADLINES, batches))
    return [
        msgspec.structs.replace(waiters, deadline=deadlines[waiters.batch_id])
        if waiters.batch_id is not None
        else waiters
        for waiters in found
        if waiters.batch_id is None or waiters.batch_id in deadlines
    ]


async def gather(
    lane: Lane, wanted: Gathering, *, run: UUID, version: int, keeper: UUID, lease_seconds: float
) -> int:
    """Make a provider batch in GATHERED, kept by ``keeper``; how many rows it has, 0 for none made.

    Nothing is gathered for a run that was ended, nor by routes of another ``version``.
    """
    groups = list(wanted.takes)
    rows = await lane.fetch(
        GATHER,
        wanted.id,
        run,
        version,
        wanted.model,
        wanted.endpoint,
        [group.cell.service_class for group in groups],
        [group.team_id for group in groups],
        [group.rank for group in groups],
        [wanted.takes[group] for group in groups],
        wanted.batches,
        wanted.earliest,
        wanted.before,
        wanted.backend,
        wanted.upstream,
        wanted.window,
        wanted.reason,
        wanted.deadline,
        keeper,
        lease_seconds,
        wanted.rows,
    )
    return int(rows[0]["lines"]) if rows else 0


async def renew(lane: Lane, backend: str, keeper: UUID, lease_seconds: float) -> set[UUID]:
    """Keep for longer what the process keeps; the ids of those that it does."""
    return {row["id"] for row in await lane.fetch(RENEW, backend, keeper, lease_seconds)}


async def adopt(
    lane: Lane, backend: str, keeper: UUID, lease_seconds: float
) -> list[ProviderBatch]:
    """Take over the open provider batches of a backend that nobody keeps any more.

    A keeper is a run: one that was ended keeps nothing, whatever its lease says.
    """
    return [_batch(row) for row in await lane.fetch(ADOPT, backend, keeper, lease_seconds)]


async def disown(lane: Lane, backend: str, keeper: UUID) -> None:
    """Leave all that the process keeps to be adopted at once."""
    await lane.fetch(DISOWN, backend, keeper)


async def find(lane: Fetches, identifier: UUID) -> ProviderBatch | None:
    """A provider batch as it is now."""
    rows = await lane.fetch(FIND, identifier)
    return _batch(rows[0]) if rows else None


async def measured(
    lane: Fetches, keeper: UUID, batch: ProviderBatch, *, lines: int, size: int, tokens: int
) -> ProviderBatch:
    """Note what its file will hold; it stays GATHERED."""
    return await _step(lane, MEASURED, batch, keeper, lines, size, tokens)


async def uploaded(
    lane: Fetches, keeper: UUID, batch: ProviderBatch, input_file: str
) -> ProviderBatch:
    """From GATHERED to UPLOADED."""
    return await _step(lane, UPLOADED, batch, keeper, input_file)


async def recalled(lane: Fetches, keeper: UUID, batch: ProviderBatch) -> ProviderBatch:
    """From UPLOADED back to GATHERED: its file holds lines that nobody needs any more."""
    return await _step(lane, RECALLED, batch, keeper)


async def submitted(
    lane: Fetches, keeper: UUID, batch: ProviderBatch, provider_id: str, status: str
) -> ProviderBatch:
    """From UPLOADED to SUBMITTED."""
    return await _step(lane, SUBMITTED, batch, keeper, provider_id, status)


async def watched(
    lane: Fetches,
    keeper: UUID,
    batch: ProviderBatch,
    *,
    status: str,
    output_file: str | None,
    error_file: str | None,
) -> ProviderBatch:
    """Note what the provider says of it; it stays SUBMITTED."""
    return await _step(lane, WATCHED, batch, keeper, status, output_file, error_file)


async def ended(lane: Fetches, keeper: UUID, batch: ProviderBatch, error: str | None) -> None:
    """From any state to ENDED; LostError, too, where it owns a row still."""
    await _step(lane, ENDED, batch, keeper, error)


async def members(lane: Fetches, batch: UUID) -> list[Member]:
    """Its rows, in the order of their prefixes."""
    return [Member(*row) for row in await lane.fetch(MEMBERS, batch)]


async def any_member(lane: Fetches, batch: UUID) -> bool:
    """Whether it has a row left."""
    return bool(await lane.fetch(ANY_MEMBER, batch))


async def count_members(lane: Fetches, batch: UUID) -> int:
    """How many rows it has left."""
    [row] = await lane.fetch(COUNT_MEMBERS, batch)
    return int(row["count"])


async def bodies(lane: Fetches, ids: Sequence[UUID]) -> list[tuple[UUID, bytes]]:
    """The bodies of the first of these requests, as many as memory should hold at once."""
    return [(row["id"], row["body"]) for row in await lane.fetch(BODIES, ids)]


async def open_tokens(lane: Fetches, batch: ProviderBatch) -> int:
    """The tokens of the other open provider batches of its backend and upstream model."""
    return await enqueued_tokens(lane, batch.backend, batch.upstream, but=batch.id)


async def enqueued_tokens(lane: Fetches, backend: str, upstream: str, *, but: UUID) -> int:
    """The tokens of the open provider batches of a backend and upstream model, without one."""
    [row] = await lane.fetch(OPEN_TOKENS, backend, upstream, but)
    return int(row["tokens"])


async def durations(lane: Fetches, backend: str, windows: Sequence[str]) -> dict[str, list[float]]:
    """For each window, how many seconds its last provider batches took from submission to end."""
    found: dict[str, list[float]] = {window: [] for window in windows}
    for row in await lane.fetch(DURATIONS, backend, windows, RECENT_BATCHES):
        found[row["completion_window"]].append(row["seconds"])
    return found


async def paused_models(
    lane: Fetches, backend: str, windows: Sequence[str], *, seconds: float
) -> set[str]:
    """The upstream models for which the provider had no room so many seconds ago, or less."""
    rows = await lane.fetch(PAUSED, backend, windows, seconds, NO_ROOM)
    return {row["upstream"] for row in rows}


async def _step(
    lane: Fetches, query: str, batch: ProviderBatch, keeper: UUID, *values: Any
) -> ProviderBatch:
    rows = await lane.fetch(query, batch.id, keeper, *values)
    if not rows:
        raise LostError(f"{ProviderBatchState(batch.state).name} {batch.id}")
    return _batch(rows[0])


def _batch(row: Any) -> ProviderBatch:
    return ProviderBatch(*row.values())
