"""The second transition: an owner takes rows that wait."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from carpool.ids import id_at
from carpool.routing import HURRIED, Cell, Kind
from carpool.states import OwnerKind, ServiceClass
from db.database import Lane
from db.follow import followers_of
from db.routes import routing_version
from db.sql import load

CLAIM_BY_AGE = load("claim_by_age")
CLAIM_BY_AGE_OF_SHARES = CLAIM_BY_AGE.replace("share is null", "share is not null")
CLAIM_BY_DEADLINE = load("claim_by_deadline")
CLAIM_BY_PREFIX = load("claim_by_prefix")
CLAIM_BY_SHARE = load("claim_by_share")
CLAIM_SUSPECTS = load("claim_suspects")
WAITING = load("waiting")
WAITING_DEADLINES = load("waiting_deadlines")
WAITING_SHARES = load("waiting_shares")
# Of the batches that are near their deadline, those with a row that waits.
LEFT = """
select b.id as batch, b.team_id, b.model, extract(epoch from b.expires_at - now()) as left_seconds,
    (
        select q.id from queue q
        where q.model = b.model and q.class = 2 and q.team_id = b.team_id and q.state = 0
            and q.share is null and q.id > b.id and q.id < (
                -- the id of line 2^32 - 1
                overlay(b.id::text placing 'ffffffff' from 29)::uuid
            )
        order by q.id limit 1
    ) as id
from batches b
where
    b.status = 1 and b.model = any($1::text[])
    and b.expires_at < now() + make_interval(secs => $2)
"""
LEFT_OF_SHARES = LEFT.replace("share is null", "share is not null")
TEAMS = "select id, name from teams where name = any($1::text[])"
# A statement of its own: where one that locks rows also prunes partitions as it runs, Postgres 18.4
# reads freed memory, and dies of it now and then.
BODIES = """
select r.id, r.body, r.traceparent
from unnest($1::uuid[]) as claimed(id) join requests r on r.id = claimed.id
"""
# Read after the claim, so that whoever was told of a cancel sees nothing claimed after it run.
BATCHES = """
select id, expires_at, status <> 1 or expiring as stopped from batches where id = any($1::uuid[])
"""

NO_ID = UUID(int=0)
LAST_ID = UUID(int=2**128 - 1)
LOWEST_PREFIX = -(2**63)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StaleRoutesError(Exception):
    """A claim was planned by routes that have changed since."""


class Claim(msgspec.Struct, frozen=True):
    """A row that is owned, with all that is needed to answer it; in the columns' order."""

    id: UUID
    epoch: int
    team_id: int
    service_class: int
    endpoint: int
    model: str
    streamed: bool
    attempts: int
    lost: int
    channel: UUID | None
    prefix_key: int
    share: int | None
    rank: int
    batch_id: UUID | None
    deadline: datetime | None
    """Its own, or its batch's."""
    upstream: str
    body: bytes
    stopped: bool
    """Of a batch that was cancelled, or has expired: not to be run, for the sweep ends it."""
    traceparent: str | None = None
    """Of the span that took the request in; None where that was not traced."""
    followers: Sequence[tuple[UUID, UUID]] = ()
    """Of a stream: the requests that follow it now, each with the channel that waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that wait alike: of one cell and team; of suspects, those lost alike."""

    cell: Cell
    team_id: int
    rank: int = 0
    """Of batches alone: lower goes first within its team."""
    lost: int = 0
    """Above 0: the suspects that were lost so often."""
    batch: UUID | None = None
    """Of a batch near its deadline alone."""

    @property
    def by_prefix(self) -> bool:
        """Whether it is claimed in the order of prefix keys."""
        return self.cell.kind is Kind.WHOLE and self.cell.service_class is ServiceClass.BATCH

    @property
    def walked(self) -> bool:
        """Whether it is claimed in a walk over a key, and not by age."""
        return self.cell.kind is Kind.SHARE or self.by_prefix

    @property
    def by_deadline(self) -> bool:
        """Whether it is claimed in the order of deadlines."""
        return self.cell.kind is Kind.DUE

    def holds(self, claim: Claim) -> bool:
        """Whether a claim may be of this group."""
        return (
            claim.model == self.cell.model
            and claim.team_id == self.team_id
            and claim.service_class == self.cell.service_class
            and (not self.by_prefix or claim.rank == self.rank)
        )


class First(NamedTuple):
    """The first row of a group that waits, in the order in which it is claimed."""

    group: Group
    key: int
    """Of a walk the prefix key or the share, of a group by deadline its `key_of`; else 0."""
    id: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """How many rows to claim of a group, after which (key, id), and before which id or deadline."""

    group: Group
    take: int
    after: UUID = NO_ID
    after_key: int = LOWEST_PREFIX
    before: UUID = LAST_ID
    due_before: datetime | None = None
    """Of a group by deadline alone."""


def key_of(deadline: datetime) -> int:
    """A deadline as the key of a place: in microseconds."""
    return (deadline - EPOCH) // timedelta(microseconds=1)


def deadline_at(key: int) -> datetime:
    """The inverse of `key_of`; what lies before all deadlines is the epoch."""
    return EPOCH + timedelta(microseconds=max(key, 0))


async def team_names(lane: Lane, names: Collection[str]) -> dict[int, str]:
    """The teams of these names that there are, by their ids."""
    return {row["id"]: row["name"] for row in await lane.fetch(TEAMS, list(names))}


async def waiting(
    lane: Lane, cells: Sequence[Cell], teams: dict[int, str] | None = None
) -> list[First]:
    """Where something may be claimed of the cells; one step for each team, whatever the depth.

    ``teams`` are the names of those teams that the cells name.
    """
    models = list({cell.model for cell in cells})
    teams = teams or {}
    found: list[First] = []
    if not models:
        return found
    by_age = _classes(cells, of_shares=False)
    for row in await lane.fetch(WAITING, models, by_age):
        if row["lost"]:
            for cell in _fitting(cells, row, teams):
                if _suspects(cell, row):
                    group = Group(cell=cell, team_id=row["team_id"], lost=row["lost"])
                    found.append(First(group, 0, row["id"]))
            continue
        by_prefix = row["prefix_key"] is not None
        for cell in _fitting(cells, row, teams):
            group = Group(cell=cell, team_id=row["team_id"], rank=row["rank"])
            timed = cell.kind is Kind.AFTER and not cell.of_shares
            whole = cell.kind is Kind.WHOLE and group.by_prefix == by_prefix
            if whole or (timed and not by_prefix):
                found.append(First(group, row["prefix_key"] or 0, row["id"]))
    for row in await lane.fetch(WAITING_SHARES, models):
        for cell in _fitting(cells, row, teams):
            group = Group(cell=cell, team_id=row["team_id"])
            if cell.kind is Kind.SHARE:
                found.append(First(group, cell.shares[0], row["id"]))
            elif cell.kind is Kind.AFTER and cell.of_shares:
                found.append(First(group, 0, row["id"]))
    found += await _due(lane, cells, teams)
    return found + await _left(lane, cells, teams)


async def _due(lane: Lane, cells: Sequence[Cell], teams: dict[int, str]) -> list[First]:
    near = [cell for cell in cells if cell.kind is Kind.DUE]
    if not near:
        return []
    models = list({cell.model for cell in near})
    classes = list({int(cell.service_class) for cell in near})
    now = datetime.now(UTC)
    return [
        First(Group(cell=cell, team_id=row["team_id"]), key_of(row["deadline"]), row["id"])
        for row in await lane.fetch(WAITING_DEADLINES, models, classes)
        for cell in _fitting(near, row, teams)
        if row["deadline"] < now + timedelta(seconds=cell.seconds)
    ]


async def _left(lane: Lane, cells: Sequence[Cell], teams: dict[int, str]) -> list[First]:
    found = []
    for of_shares, query in ((False, LEFT), (True, LEFT_OF_SHARES)):
        near = [c for c in cells if c.kind is Kind.LEFT and c.of_shares == of_shares]
        if not near:
            continue
        models = list({cell.model for cell in near})
        most = max(cell.seconds for cell in near)
        for row in await lane.fetch(query, models, most):
            if row["id"] is None:
                continue
            for cell in _fitting(near, {**row, "class": ServiceClass.BATCH}, teams):
                if row["left_seconds"] <= cell.seconds:
                    group = Group(cell=cell, team_id=row["team_id"], batch=row["batch"])
                    found.append(First(group, 0, row["id"]))
    return found


def _classes(cells: Sequence[Cell], *, of_shares: bool) -> list[int]:
    """The classes whose rows are claimed by age."""
    return list(
        {
            int(cell.service_class)
            for cell in cells
            if (cell.kind is Kind.WHOLE and cell.service_class is not ServiceClass.BATCH)
            or (cell.kind is Kind.AFTER and cell.of_shares == of_shares)
        }
    )


def _suspects(cell: Cell, row: Any) -> bool:
    """Whether suspects are a cell's; of batches near their deadline whatever time is left."""
    low, high = _shares(cell)
    now = datetime.now(UTC)
    match cell.kind:
        case Kind.AFTER:
            in_time = row["id"] < id_at(now - timedelta(seconds=cell.seconds))
        case Kind.DUE:
            deadline = row["deadline"]
            in_time = deadline is not None and deadline < now + timedelta(seconds=cell.seconds)
        case _:
            in_time = True
    return low <= (-1 if row["share"] is None else row["share"]) < high and in_time


def _shares(cell: Cell) -> tuple[int, int]:
    """The range of shares of a cell's rows, where no share is -1."""
    if cell.kind is Kind.SHARE:
        return cell.shares
    if cell.kind is Kind.DUE:
        return (-1, HURRIED + 1)
    return (0, HURRIED + 1) if cell.of_shares else (-1, 0)


def _fitting(cells: Sequence[Cell], row: Any, teams: dict[int, str]) -> list[Cell]:
    return [
        cell
        for cell in cells
        if cell.model == row["model"]
        and cell.service_class == row["class"]
        and cell.takes(teams.get(row["team_id"], ""))
    ]


async def claim(
    lane: Lane,
    run: UUID,
    version: int,
    picks: Sequence[Pick],
    *,
    owner: UUID | None = None,
    owner_kind: OwnerKind = OwnerKind.RUN,
) -> list[Claim]:
    """Claim picks that are claimed alike, for a live run or what it gathers; in claim order.

    Returns fewer where fewer wait, and none where the run was ended. Raises StaleRoutesError where
    the routes are of another ``version``.
    """
    first = picks[0].group
    query, within = _query(picks, owner or run, owner_kind)
    rows = await lane.fetch(query, run, version, *within)
    if not rows:
        if await routing_version(lane) != version:
            raise StaleRoutesError
        return []
    claims = await _told(lane, rows, picks)
    # Rows come back in the order of their place in the table.
    if first.by_prefix:
        claims.sort(key=lambda claim: (claim.rank, claim.prefix_key, claim.id))
    elif first.by_deadline:
        claims.sort(key=lambda claim: (claim.deadline or EPOCH, claim.id))
    else:
        claims.sort(key=lambda claim: claim.id)
    return claims


def _query(
    picks: Sequence[Pick], owner: UUID, owner_kind: OwnerKind
) -> tuple[str, tuple[object, ...]]:
    """The statement that claims such picks, and its parameters behind the run and the version."""
    first = picks[0].group
    models = [pick.group.cell.model for pick in picks]
    classes = [pick.group.cell.service_class for pick in picks]
    teams = [pick.group.team_id for pick in picks]
    keys = [pick.after_key for pick in picks]
    after = [pick.after for pick in picks]
    owned = ([pick.take for pick in picks], owner, owner_kind)
    if first.lost:
        bounds = (*_shares(first.cell), picks[0].before, picks[0].due_before)
        suspects = (models[0], first.lost, picks[0].take, owner, owner_kind)
        return CLAIM_SUSPECTS, (*suspects, classes[0], teams[0], *bounds)
    if first.by_prefix:
        ranks = [pick.group.rank for pick in picks]
        return CLAIM_BY_PREFIX, (models, teams, ranks, keys, after, *owned)
    if first.cell.kind is Kind.SHARE:
        below = [pick.group.cell.shares[1] for pick in picks]
        return CLAIM_BY_SHARE, (models, classes, teams, below, keys, after, *owned)
    if first.by_deadline:
        begins = [deadline_at(key) for key in keys]
        ends = [pick.due_before for pick in picks]
        return CLAIM_BY_DEADLINE, (models, classes, teams, begins, after, *owned, ends)
    query = CLAIM_BY_AGE_OF_SHARES if first.cell.of_shares else CLAIM_BY_AGE
    return query, (models, classes, teams, after, *owned, [pick.before for pick in picks])


async def _told(lane: Lane, rows: Sequence[Any], picks: Sequence[Pick]) -> list[Claim]:
    """The claims of rows, with all that is kept elsewhere."""
    bodies = {row["id"]: row for row in await lane.fetch(BODIES, [row["id"] for row in rows])}
    of_batches = {row["batch_id"] for row in rows} - {None}
    batches = (
        {row["id"]: row for row in await lane.fetch(BATCHES, of_batches)} if of_batches else {}
    )
    led = [row["id"] for row in rows if row["followed"] and row["streamed"]]
    followers = await followers_of(lane, led) if led else {}
    cells = {
        (pick.group.cell.model, pick.group.cell.service_class, pick.group.team_id): pick.group.cell
        for pick in picks
    }
    claims = []
    for row in rows:
        cell = cells.get((row["model"], row["class"], row["team_id"]), picks[0].group.cell)
        *columns, deadline, _ = row
        stopped = False
        if row["batch_id"] in batches:
            _, deadline, stopped = batches[row["batch_id"]]
        _, body, traceparent = bodies[row["id"]]
        told = (cell.upstream, body, stopped, traceparent, followers.get(row["id"], ()))
        claims.append(Claim(*(*columns, deadline, *told)))
    return claims
