"""How a provider batch moves on, from one keeper's step to the next.

A step names the state and the keeper that it leaves; where it changes no row, another process keeps
the batch by now, and LostError is raised.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from carpool.states import ProviderBatchState, ServiceClass
from db.database import Fetches, Lane
from db.pages import bounded

COLUMNS = """
id, backend, model, upstream, endpoint, completion_window, reason, state, deadline, lines, bytes,
tokens, input_file, provider_id, provider_status, output_file, error_file, created_at, submitted_at,
background
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


def _stepping(change: str, *, state: str) -> str:
    """A step that the keeper alone takes, out of a state."""
    return f"""
update provider_batches set {change}
where id = $1 and keeper = $2 and state = {state} and kept_until > now()
returning {COLUMNS}
"""  # noqa: S608 - texts of this module


MEASURED = _stepping("lines = $3, bytes = $4, tokens = $5", state="0")
UPLOADED = _stepping("state = 1, input_file = $3", state="0")
RECALLED = _stepping("state = 0, input_file = null", state="1")
SUBMITTED = _stepping(
    "state = 2, provider_id = $3, provider_status = $4, submitted_at = now()", state="1"
)
BEGUN = _stepping("state = 2, provider_status = $3, lines = $4, submitted_at = now()", state="0")
WATCHED = _stepping("provider_status = $3, output_file = $4, error_file = $5", state="2")
# Never while it owns a row: nobody would return that.
ENDED = _stepping(
    "state = 3, keeper = null, kept_until = null, error = $3, ended_at = now()",
    state="any('{0,1,2}')",
).replace("returning", "and not exists (select from queue q where q.owner = $1) returning")
# As db/sql/release.sql, by its keeper alone: one that lost it must not return what the next one has
# submitted meanwhile, for it would be computed, and paid for, twice.
RELEASE = """
update queue q
set state = case when q.lost >= 2 then 3 else 0 end, owner_kind = 0, owner = null,
    verbatim = q.verbatim or $5
from unnest($3::uuid[], $4::integer[]) as r(id, epoch)
where q.id = r.id and q.epoch = r.epoch and (q.owner = $1) is true
    and (
        select true from provider_batches
        where id = $1 and keeper = $2 and kept_until > now() for share
    )
returning q.id
"""
FIND = f"select {COLUMNS} from provider_batches where id = $1"  # noqa: S608 - our own text
# A ghost is its batch's no more.
MEMBER_COLUMNS = """
q.id, q.epoch, q.attempts, q.team_id, q.prefix_key,
coalesce(
    q.deadline, (select b.expires_at from batches b where b.id = q.batch_id and not q.ghost)
) as deadline,
q.class
"""
MEMBERS = f"""
select {MEMBER_COLUMNS} from queue q where q.owner = $1 order by q.prefix_key, q.id
"""  # noqa: S608 - our own text
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
NO_ROOM = "token_limit_exceeded"
"""What the error of a provider batch that the enqueued-token limit kept out begins with."""
# With what was enqueued beside it; one that waited for room here was never at the provider.
LAST_REFUSAL = """
select
    p.error, extract(epoch from now() - p.ended_at)::float8 as seconds_ago,
    (p.tokens + (
        select coalesce(sum(o.tokens), 0) from provider_batches o
        where o.backend = $1 and o.completion_window = any($3) and o.upstream = $2
            and o.error is null and o.submitted_at < p.ended_at
            and (o.state < 3 or o.state = 3 and o.ended_at > p.submitted_at)
    ))::bigint as tokens
from unnest($3::text[]) as w(completion_window)
join provider_batches p on p.backend = $1 and p.completion_window = w.completion_window
where p.state = 3 and p.ended_at > now() - make_interval(secs => $4) and p.upstream = $2
    and p.provider_id is not null and starts_with(p.error, $5)
order by p.ended_at desc limit 1
"""
REFUSAL_SECONDS = 86_400.0
"""For so long a refusal is remembered."""


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
    """Of its prompts, estimated; 0 in the background, where they count for no limit."""
    input_file: str | None
    provider_id: str | None
    provider_status: str | None
    output_file: str | None
    error_file: str | None
    created_at: datetime
    submitted_at: datetime | None
    background: bool = False
    """Whether it goes as background responses, and not as a file."""


class Refusal(msgspec.Struct, frozen=True):
    """The provider had no room: what it said, how long ago, and what would have been enqueued."""

    error: str
    seconds_ago: float
    tokens: int
    """Estimated, of the refused and of what was enqueued beside it."""


class Member(msgspec.Struct, frozen=True):
    """A row that a provider batch owns."""

    id: UUID
    epoch: int
    attempts: int
    team_id: int
    prefix_key: int
    deadline: datetime | None = None
    """Its own, or its batch's."""
    service_class: int = ServiceClass.BATCH


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


async def begun(
    lane: Fetches, keeper: UUID, batch: ProviderBatch, *, status: str, lines: int
) -> ProviderBatch:
    """From GATHERED to SUBMITTED, before the first of its background responses is created."""
    return await _step(lane, BEGUN, batch, keeper, status, lines)


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


async def release(
    lane: Fetches, keeper: UUID, batch: UUID, rows: Sequence[Member], *, verbatim: bool = False
) -> Sequence[UUID]:
    """Hand rows back unharmed; returns those that were still its own, none where it was lost.

    ``verbatim``: they were found to have no equal as responses, and are not to be tried so again.
    """
    ids, epochs = [row.id for row in rows], [row.epoch for row in rows]
    return [row["id"] for row in await lane.fetch(RELEASE, batch, keeper, ids, epochs, verbatim)]


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


async def last_refusal(
    lane: Fetches, backend: str, upstream: str, windows: Sequence[str]
) -> Refusal | None:
    """The last time, within a day, that the provider had no room for a backend's upstream model."""
    rows = await lane.fetch(LAST_REFUSAL, backend, upstream, windows, REFUSAL_SECONDS, NO_ROOM)
    return Refusal(*rows[0].values()) if rows else None


async def _step(
    lane: Fetches, query: str, batch: ProviderBatch, keeper: UUID, *values: Any
) -> ProviderBatch:
    rows = await lane.fetch(query, batch.id, keeper, *values)
    if not rows:
        raise LostError(f"{ProviderBatchState(batch.state).name} {batch.id}")
    return _batch(rows[0])


def _batch(row: Any) -> ProviderBatch:
    return ProviderBatch(*row.values())
