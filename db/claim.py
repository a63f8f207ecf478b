"""The second transition: a run takes rows that wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import msgspec

from carpool.states import ServiceClass
from db.database import Lane
from db.sql import load

CLAIM_BY_AGE = load("claim_by_age")
CLAIM_BY_PREFIX = load("claim_by_prefix")
CLAIM_SUSPECTS = load("claim_suspects")
WAITING = load("waiting")
# A statement of its own: where one that locks rows also prunes partitions as it runs, Postgres 18.4
# reads freed memory, and dies of it now and then.
BODIES = """
select r.id, r.body from unnest($1::uuid[]) as claimed(id) join requests r on r.id = claimed.id
"""
# Read after the claim, so that whoever was told of a cancel sees nothing claimed after it run.
STOPPED = "select id from batches where id = any($1::uuid[]) and (status <> 1 or expiring)"

NO_ID = UUID(int=0)
LOWEST_PREFIX = -(2**63)


class Claim(msgspec.Struct, frozen=True):
    """A row that a run owns, with all that it needs to answer it; in the columns' order."""

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
    rank: int
    batch_id: UUID | None
    upstream: str
    body: bytes
    stopped: bool
    """Of a batch that was cancelled, or has expired: not to be run, for the sweep ends it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that wait alike: those of one model, class, team and rank; or suspects lost alike."""

    model: str
    service_class: ServiceClass
    team_id: int
    rank: int = 0
    """Of batches alone: lower goes first within its team."""
    lost: int = 0
    """Above 0: the suspects of the model that were lost so often, of whatever team."""


class First(NamedTuple):
    """The first row of a group that waits, in the order in which it is claimed."""

    group: Group
    prefix_key: int
    id: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """How many rows to claim of a group, after which (prefix_key, id)."""

    group: Group
    take: int
    after: UUID = NO_ID
    after_key: int = LOWEST_PREFIX


async def waiting(lane: Lane, backend: str) -> list[First]:
    """Where a backend may claim; one step for each team, whatever the depth."""
    return [
        First(
            Group(
                model=row["model"],
                service_class=ServiceClass(row["class"]),
                team_id=row["team_id"],
                rank=row["rank"],
                lost=row["lost"],
            ),
            row["prefix_key"],
            row["id"],
        )
        for row in await lane.fetch(WAITING, backend)
    ]


async def claim(lane: Lane, run: UUID, backend: str, picks: Sequence[Pick]) -> list[Claim]:
    """Claim the picks of one class, or one pick of suspects, for a live run; in claim order.

    Returns fewer where fewer wait, and none where the run was ended or no route leads here.
    """
    first = picks[0].group
    models = [pick.group.model for pick in picks]
    teams = [pick.group.team_id for pick in picks]
    after = [pick.after for pick in picks]
    takes = [pick.take for pick in picks]
    if first.lost:
        rows = await lane.fetch(
            CLAIM_SUSPECTS, run, backend, first.model, first.lost, picks[0].take
        )
    elif first.service_class is ServiceClass.BATCH:
        ranks = [pick.group.rank for pick in picks]
        keys = [pick.after_key for pick in picks]
        rows = await lane.fetch(
            CLAIM_BY_PREFIX, run, backend, models, teams, ranks, keys, after, takes
        )
    else:
        classes = [pick.group.service_class for pick in picks]
        rows = await lane.fetch(CLAIM_BY_AGE, run, backend, models, classes, teams, after, takes)
    if not rows:
        return []
    bodies = dict(await lane.fetch(BODIES, [row["id"] for row in rows]))
    batches = {row["batch_id"] for row in rows} - {None}
    stopped = {row["id"] for row in await lane.fetch(STOPPED, batches)} if batches else set()
    claims = [Claim(*(*row, bodies[row["id"]], row["batch_id"] in stopped)) for row in rows]
    # Rows come back in the order of their place in the table.
    if first.service_class is ServiceClass.BATCH:
        claims.sort(key=lambda claim: (claim.rank, claim.prefix_key, claim.id))
    else:
        claims.sort(key=lambda claim: claim.id)
    return claims
