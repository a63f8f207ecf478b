"""What waits for a provider's Batch API, and how it becomes provider batches."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from carpool.routing import HURRIED, Kind
from carpool.states import ENDPOINTS, Endpoint, ServiceClass
from db.claim import Group
from db.database import Database, Fetches, Lane
from db.provider_batches import NO_ROOM
from db.sql import load

GATHER = load("gather")
MOVED_ROWS = 5000
"""One statement moves so many at most, so that none lasts long."""
BY_PREFIX = "q.class = 2 and q.share is null and q.rank = {} order by q.prefix_key, q.id"
BY_AGE = "q.class = 1 and q.share is null order by q.id"
BY_SHARE = (
    "q.class = {} and q.share is not null and q.share >= {} and q.share < {} order by q.share, q.id"
)
BY_LOSS = (
    "q.lost = {} and q.class = {} and coalesce(q.share, -1) >= {} and coalesce(q.share, -1) < {}"
    " order by q.id"
)


def _first(which: str, *, but: str = "", after: int = 3) -> str:
    """The first $3 rows of a group; its own parameters are those after so many."""
    group = which.format(*(f"${after + n + 1}" for n in range(which.count("{}"))))
    return f"""
    select q.ctid, q.endpoint, q.batch_id, q.deadline, q.verbatim, q.share, q.streamed from queue q
    where q.model = $1 and q.team_id = $2 and q.state = {3 if which is BY_LOSS else 0} {but}
        and {group} limit $3
"""  # noqa: S608 - texts of this module


def _counting(which: str) -> str:
    """What waits of a group; deadlines to the minute, so that there are few, and no streams."""
    return f"""
select w.endpoint, w.batch_id, date_bin('1 minute', w.deadline, 'epoch') as deadline,
    count(*)::integer as rows, w.verbatim, coalesce(w.share = {HURRIED}, false) as hurried
from ({_first(which, but="and not q.streamed")}) w
group by 1, 2, 3, 5, 6
"""  # noqa: S608 - texts of this module


def _moving(change: str, which: str, those: str, *, but: str = "", after: int) -> str:
    """Changes those that are chosen of a group's first, some at a time; no other is locked."""
    return f"""
update queue q set {change}
where q.ctid = any(array(
    select w.ctid from queue w
    where w.state = 0 and w.ctid = any(array(
        select f.ctid from ({_first(which, but=but, after=after)}) f where {those}
        limit {MOVED_ROWS}
    ))
    for update skip locked
))
returning q.id
"""  # noqa: S608 - texts of this module


SURVEY = {which: _counting(which) for which in (BY_PREFIX, BY_AGE, BY_SHARE, BY_LOSS)}
# Of one endpoint, those of some batches, and those by themselves with the deadlines of a survey.
HURRY = {
    which: _moving(
        f"share = {HURRIED}",
        which,
        """f.endpoint = $4 and f.verbatim = $5 and f.share is distinct from $8
        and (
            f.batch_id = any($6::uuid[])
            or f.batch_id is null
                and date_bin('1 minute', f.deadline, 'epoch') = any($7::timestamptz[])
        )""",
        but="and not q.streamed",
        after=8,
    )
    for which in (BY_PREFIX, BY_AGE, BY_SHARE)
}
HURRY_STREAMS = {
    which: _moving("class = 0", which, "f.streamed", after=3) for which in (BY_AGE, BY_SHARE)
}
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

IN_LINE = "select pg_advisory_xact_lock(hashtextextended('background responses of ' || $1, 0))"

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
    hurried: bool = False
    """Left to live calls already."""

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
        which, values = _which(group)
        seen = await lane.fetch(SURVEY[which], group.cell.model, group.team_id, rows, *values)
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


async def hurry(lane: Lane, waiters: Sequence[Waiters], *, rows: int) -> int:
    """Leave what waits to live calls, though it has much time left; how many rows.

    They are claimed as `carpool.routing.HURRIED`, in their class. Like a survey it looks at the
    first so many rows of each group; where very many are to be left, the next one leaves more.
    """
    alike: dict[tuple[Group, int, bool], list[Waiters]] = {}
    for one in waiters:
        alike.setdefault((one.group, one.endpoint, one.verbatim), []).append(one)
    moved = 0
    for (group, endpoint, verbatim), ones in alike.items():
        which, values = _which(group)
        batches = [one.batch_id for one in ones if one.batch_id is not None]
        deadlines = [one.deadline for one in ones if one.batch_id is None]
        found = await lane.fetch(
            HURRY[which],
            group.cell.model,
            group.team_id,
            rows,
            endpoint,
            verbatim,
            batches,
            deadlines,
            HURRIED,
            *values,
        )
        moved += len(found)
    return moved


async def hurry_streams(lane: Lane, groups: Sequence[Group], *, rows: int) -> int:
    """Let the streams that wait in groups of the flex class be interactive; how many there were.

    They came before the route led to a backend that gathers; later ones are so from the first on.
    """
    moved = 0
    for group in groups:
        if group.cell.service_class is ServiceClass.FLEX and not group.lost:
            which, values = _which(group)
            found = await lane.fetch(
                HURRY_STREAMS[which], group.cell.model, group.team_id, rows, *values
            )
            moved += len(found)
    return moved


async def gather(
    lane: Fetches, wanted: Gathering, *, run: UUID, version: int, keeper: UUID, lease_seconds: float
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


@asynccontextmanager
async def in_line(database: Database, backend: str) -> AsyncIterator[Fetches]:
    """A transaction in which no other worker of a backend gathers responses: it waits for them."""
    async with database.by_index() as driver:
        await driver.fetch(IN_LINE, backend)
        yield driver


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


def _which(group: Group) -> tuple[str, tuple[int, ...]]:
    """Which rows a group's are, in the order in which it is gathered, and the text's parameters."""
    if group.lost:
        return BY_LOSS, (group.lost, group.cell.service_class, *_shares(group))
    if group.cell.kind is Kind.SHARE:
        return BY_SHARE, (group.cell.service_class, *group.cell.shares)
    if group.by_prefix:
        return BY_PREFIX, (group.rank,)
    return BY_AGE, ()


def _shares(group: Group) -> tuple[int, int]:
    return group.cell.shares if group.cell.kind is Kind.SHARE else WITHOUT_SHARES
