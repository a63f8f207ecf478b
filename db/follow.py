"""Identical requests that share a computation: the first leads, the others wait for its answer.

A follower is a row in the state FOLLOWING that names its leader. When the leader is answered, so
are they; when it fails, they are woken and run by themselves. What a crash leaves between the
leader's end and theirs the sweep puts right.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from carpool.notices import Finished, Gone, Source, Waiting
from carpool.states import Outcome
from db.database import Fetches
from db.sql import load

RESOLVE = load("resolve")
# They do not lead each other: each runs by itself.
WAKE = """
update queue set state = 0, leader = null, twin = null
where leader = any($1::uuid[]) and state = 4
returning model, class, team_id, rank, share
"""
LEADERLESS = """
select f.leader, s.outcome, s.status_code, s.body, s.backend, s.upstream, s.worker, s.run_id,
    s.paid + s.saved_shared + s.saved_prefix + s.saved_window + s.saved_own as listed
from (
    select distinct f.leader from queue f
    where
        f.leader is not null
        and not exists (select from queue l where l.id = f.leader)
) f
left join results s on s.id = f.leader
limit $1
"""
FORLORN = """
delete from queue q
where q.id = any(array(
    select g.id from queue g
    where g.ghost and not exists (select from queue f where f.leader = g.id)
    order by g.id limit 500
))
    and q.ghost
returning q.id, q.epoch, q.owner
"""
CHUNK = 500


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered, and whose answer is its followers' too; money in nanodollars."""

    id: UUID
    ghost: bool
    status_code: int
    body: bytes
    upstream: str | None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    completion_tokens: int = 0
    paid: int = 0
    saved_prefix: int = 0
    saved_window: int = 0
    saved_own: int = 0


class Followed(msgspec.Struct, frozen=True):
    """A follower that was answered: who waits for it, and what to tell."""

    channel: UUID | None
    notice: Finished


async def resolve(
    database: Fetches,
    leaders: Sequence[Leader],
    *,
    backend: str | None,
    worker: str | None,
    run: UUID | None,
) -> list[Followed]:
    """Give the leaders' answers to all that follow them now."""
    rows = await database.fetch(
        RESOLVE,
        *(
            [getattr(leader, field) for leader in leaders]
            for field in (
                *("id", "ghost", "status_code", "body", "upstream", "prompt_tokens"),
                *("cached_tokens", "written_tokens", "completion_tokens", "paid"),
                *("saved_prefix", "saved_window", "saved_own"),
            )
        ),
        backend,
        worker,
        run,
    )
    return [
        Followed(
            row["channel"],
            Finished(
                *(row["id"], row["epoch"], Outcome.COMPLETED, 200, None),
                source=None if backend is None else Source(backend, row["upstream"] or ""),
            ),
        )
        for row in rows
    ]


async def wake(database: Fetches, leaders: Sequence[UUID]) -> list[Waiting]:
    """Let the followers of requests that failed run by themselves; where they wait now."""
    rows = await database.fetch(WAKE, leaders)
    return list({Waiting(*row) for row in rows})


class Orphans(msgspec.Struct, frozen=True):
    """What the sweep did for followers without a leader, and leaders without followers."""

    answered: list[Followed]
    waiting: list[Waiting]
    gone: list[tuple[UUID, Gone]]
    """Ghosts that nobody needs any more, with the run that holds each."""


async def sweep_followers(database: Fetches) -> Orphans:
    """Put right what ended between a leader's end and that of its followers."""
    answered: list[Followed] = []
    failed = []
    for row in await database.fetch(LEADERLESS, CHUNK):
        if row["outcome"] != Outcome.COMPLETED:
            failed.append(row["leader"])
            continue
        leader = Leader(
            id=row["leader"],
            ghost=False,
            status_code=row["status_code"],
            body=row["body"],
            upstream=row["upstream"],
            paid=row["listed"],
        )
        answered += await resolve(
            database,
            [leader],
            backend=row["backend"],
            worker=row["worker"],
            run=row["run_id"],
        )
    waiting = await wake(database, failed) if failed else []
    forlorn = await database.fetch(FORLORN)
    gone = [(row["owner"], Gone(row["id"], row["epoch"])) for row in forlorn if row["owner"]]
    return Orphans(answered, waiting, gone)
