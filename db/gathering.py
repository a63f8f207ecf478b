"""What waits for a provider's Batch API, and how it becomes provider batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from carpool.routing import Kind
from carpool.states import ENDPOINTS, Endpoint
from db.claim import Group
from db.database import Lane
from db.provider_batches import NO_ROOM
from db.sql import load

GATHER = load("gather")


def _counting(which: str, *, state: int = 0) -> str:
    """What waits of a group; deadlines to the minute, so that there are few, and no streams."""
    return f"""
select w.endpoint, w.batch_id, date_bin('1 minute', w.deadline, 'epoch') as deadline,
    count(*)::integer as rows, w.verbatim
from (
    select q.endpoint, q.batch_id, q.deadline, q.verbatim from queue q
    where q.model = $1 and q.team_id = $2 and q.state = {state} and not q.streamed
        and {which} limit $3
) w
group by 1, 2, 3, 5
"""  # noqa: S608 - texts of this module


SURVEY_BY_PREFIX = _counting(
    "q.class = 2 and q.share is null and q.rank = $4 order by q.prefix_key, q.id"
)
SURVEY_BY_AGE = _counting("q.class = 1 and q.share is null order by q.id")
SURVEY_BY_SHARE = _counting(
    "q.class = $4 and q.share is not null and q.share >= $5 and q.share < $6 order by q.share, q.id"
)
SURVEY_SUSPECTS = _counting(
    "q.lost = $4 and q.class = $5 and coalesce(q.share, -1) >= $6 and coalesce(q.share, -1) < $7"
    " order by q.id",
    state=3,
)
# Those of batches that are stopped are left to the sweep.
DEADLINES = """
select id, expires_at from batches where id = any($1::uuid[]) and status = 1 and not expiring
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
where p.state = 3 and p.ended_at > now() - make_interval(secs => $3) and starts_with(p.error, $4)
"""

WITHOUT_SHARES = (-1, 0)
"""Rows that have none, as the range of shares that they count as."""
RECENT_BATCHES = 200
"""From so many of a window, the last ones, its waiting times are learned."""


class Waiters(msgspec.Struct, frozen=True):
    """Rows of a group that wait, and could be gathered: those of an endpoint and a deadline."""

    group: Group
    endpoint: int
    batch_id: UUID | None
    deadline: datetime | None
    rows: int
    verbatim: bool = False
    """Found to have no equal as a response."""

    @property
    def translatable(self) -> bool:
        """Whether they may go as background responses, for all that is known."""
        return ENDPOINTS[self.endpoint] is Endpoint.CHAT and not self.verbatim


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
    verbatim: bool = False
    """Whose rows are: those that cannot go as responses, or those that may."""
    background: bool = False
    """Whether it goes as background responses."""


async def survey(lane: Lane, groups: Sequence[Group], *, rows: int) -> list[Waiters]:
    """What waits among the first so many rows of each group, but for what cannot be gathered."""
    found = []
    for group in groups:
        query, values = _survey(group)
        seen = await lane.fetch(query, group.cell.model, group.team_id, rows, *values)
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
        [_shares(group)[0] for group in groups],
        [_shares(group)[1] for group in groups],
        [group.lost for group in groups],
        wanted.verbatim,
        wanted.background,
    )
    return int(rows[0]["lines"]) if rows else 0


async def durations(lane: Lane, backend: str, windows: Sequence[str]) -> dict[str, list[float]]:
    """For each window, how many seconds its last provider batches took from submission to end."""
    found: dict[str, list[float]] = {window: [] for window in windows}
    for row in await lane.fetch(DURATIONS, backend, windows, RECENT_BATCHES):
        found[row["completion_window"]].append(row["seconds"])
    return found


async def paused_models(
    lane: Lane, backend: str, windows: Sequence[str], *, seconds: float
) -> set[str]:
    """The upstream models for which the provider had no room so many seconds ago, or less."""
    rows = await lane.fetch(PAUSED, backend, windows, seconds, NO_ROOM)
    return {row["upstream"] for row in rows}


def _survey(group: Group) -> tuple[str, tuple[int, ...]]:
    """The statement that looks at a group in the order in which it is gathered."""
    if group.lost:
        return SURVEY_SUSPECTS, (group.lost, group.cell.service_class, *_shares(group))
    if group.cell.kind is Kind.SHARE:
        return SURVEY_BY_SHARE, (group.cell.service_class, *group.cell.shares)
    if group.by_prefix:
        return SURVEY_BY_PREFIX, (group.rank,)
    return SURVEY_BY_AGE, ()


def _shares(group: Group) -> tuple[int, int]:
    return group.cell.shares if group.cell.kind is Kind.SHARE else WITHOUT_SHARES
