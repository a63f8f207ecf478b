"""The background responses of a provider batch: noted when created, forgotten when settled."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from db.database import Fetches, Lane
from db.provider_batches import MEMBER_COLUMNS, Member

UNSENT = f"""
select {MEMBER_COLUMNS} from queue q
where q.owner = $1 and q.id <> all($2::uuid[])
    and not exists (
        select from provider_responses r where r.provider_batch = $1 and r.request_id = q.id
    )
order by q.prefix_key, q.id
limit $3
"""  # noqa: S608 - our own text
OPEN = f"""
select {MEMBER_COLUMNS}, r.response_id, r.kept, r.created_at,
    extract(epoch from now() - r.created_at)::float8 as age_seconds
from provider_responses r
join queue q on q.id = r.request_id and (q.owner = r.provider_batch) is true
where r.provider_batch = $1
order by r.created_at, r.request_id
"""  # noqa: S608 - our own text
UNCLAIMED = """
select r.request_id, r.response_id, r.kept from provider_responses r
where r.provider_batch = $1
    and not exists (
        select from queue q where q.id = r.request_id and (q.owner = r.provider_batch) is true
    )
order by r.created_at
"""
# One response for each request: where another was noted before, ours is the one too many; so it is
# where the provider batch has ended, for nobody would settle it. A note whose own commit was lost
# counts as made.
NOTE = """
with given as (
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::boolean[])
        as g(provider_batch, request_id, response_id, kept)
), noted as (
    insert into provider_responses (provider_batch, request_id, response_id, kept)
    select given.* from given
    where exists (select from provider_batches p where p.id = provider_batch and p.state < 3)
    on conflict (provider_batch, request_id) do nothing
    returning response_id
)
select response_id from noted
union
select g.response_id from given g
join provider_responses r using (provider_batch, request_id, response_id)
"""
FORGET = """
delete from provider_responses where provider_batch = $1 and request_id = any($2::uuid[])
"""
# A row counts from when it is gathered: it has a response, or will have one; and a response counts
# until it is let go of, though its row be gone.
COUNT_OPEN = """
select (
    select count(*) from provider_batches p join queue q on q.owner = p.id
    where p.backend = $1 and p.state < 3 and p.background
) + (
    select count(*) from provider_batches p join provider_responses r on r.provider_batch = p.id
    where p.backend = $1 and p.state < 3 and p.background
        and not exists (select from queue q where q.id = r.request_id and q.owner = p.id)
) as number
"""
ANY_LEFT = """
select exists (select from provider_responses where provider_batch = $1)
    or exists (select from queue where owner = $1)
"""


class Note(msgspec.Struct, frozen=True):
    """A response that was created; ``kept``: the client asked the provider to store it."""

    provider_batch: UUID
    request: UUID
    response: str
    kept: bool


class OpenResponse(msgspec.Struct, frozen=True):
    """A response that is waited for."""

    member: Member
    response: str
    kept: bool
    created_at: datetime
    age_seconds: float


class Unclaimed(msgspec.Struct, frozen=True):
    """A response whose row has ended, or is its provider batch's no more: nobody needs it."""

    request: UUID
    response: str
    kept: bool


async def unsent(
    lane: Fetches, batch: UUID, *, but: Iterable[UUID] = (), limit: int | None = None
) -> list[Member]:
    """The rows, some excepted, that no response is known of, in the order of their prefixes."""
    return [Member(*row) for row in await lane.fetch(UNSENT, batch, list(but), limit)]


async def open_responses(lane: Fetches, batch: UUID) -> list[OpenResponse]:
    """The responses of rows that wait for them, oldest first."""
    rows = [tuple(row) for row in await lane.fetch(OPEN, batch)]
    return [OpenResponse(Member(*row[:7]), *row[7:]) for row in rows]


async def unclaimed(lane: Fetches, batch: UUID) -> list[Unclaimed]:
    """The responses that are to be let go of."""
    return [Unclaimed(*row) for row in await lane.fetch(UNCLAIMED, batch)]


async def note(lane: Lane, notes: Sequence[Note], again: bool) -> Sequence[bool]:
    """Write down responses; False for one that is one too many."""
    rows = await lane.fetch(
        NOTE,
        [n.provider_batch for n in notes],
        [n.request for n in notes],
        [n.response for n in notes],
        [n.kept for n in notes],
    )
    mine = {row["response_id"] for row in rows}
    return [n.response in mine for n in notes]


async def forget(lane: Fetches, batch: UUID, requests: Sequence[UUID]) -> None:
    """Of these requests nothing is left at the provider that would concern us."""
    await lane.fetch(FORGET, batch, requests)


async def count_open(lane: Fetches, backend: str) -> int:
    """How many background responses of a backend are open, or are about to be created."""
    [row] = await lane.fetch(COUNT_OPEN, backend)
    return int(row["number"])


async def any_left(lane: Fetches, batch: UUID) -> bool:
    """Whether it owns a row, or has a response that is not settled."""
    [row] = await lane.fetch(ANY_LEFT, batch)
    return bool(row[0])
