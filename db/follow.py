"""Identical requests that share a computation: the first leads, the others wait for its answer.

A follower is a row in the state FOLLOWING that names its leader. When the leader is answered, so
are they; when it fails, they are woken and run by themselves. What a crash leaves between the
leader's end and theirs the sweep puts right. What a leader streams goes to them as it comes, under
its epoch as `led` has it: so nothing of another computation is read behind it.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec

from carpool.notices import Finished, Gone, Lost, Source, Waiting, led
from carpool.states import Outcome, QueueState
from db.database import Fetches
from db.results import chunks_of
from db.sql import load

RESOLVE = load("resolve")
# They do not lead each other: each runs by itself. Of a leader that had begun to stream ($2), one
# whose client listens waits for $3 seconds: the API that has sent chunks of it ends it first.
WAKE = """
update queue set
    leader = null, twin = null,
    state = case when $2 and streamed and channel is not null then 2 else 0 end,
    not_before = case
        when $2 and streamed and channel is not null then now() + make_interval(secs => $3)
    end
where leader = any($1::uuid[]) and state = 4
returning id, epoch, channel, streamed, state, model, class, team_id, rank, share
"""
FOLLOWERS = """
select leader, id, channel from queue
where leader = any($1::uuid[]) and state = 4 and channel is not null
"""
# Nothing of a follower whose leader has just ended: it is being answered, or woken.
PROGRESS = """
select
    q.id, c.id as claimed, c.epoch, q.leader is not null as follows,
    case when c.owner_kind = 1 then c.owner end as run
from queue q join queue c on c.id = coalesce(q.leader, q.id)
where q.id = any($1::uuid[])
"""
LEADERLESS = """
select f.leader, s.outcome, s.epoch, s.status_code, s.body, s.backend, s.upstream, s.worker,
    s.run_id, s.paid + s.saved_shared + s.saved_prefix + s.saved_window + s.saved_own as listed
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
RESOLVE_SECONDS = 0.5
"""How long a run that lives takes at most from a leader's end to that of its followers."""
STREAM_DELAY_SECONDS = 2.0
"""How long a stream that begins anew waits, so that none is computed that a client cannot read."""


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered, and whose answer is its followers' too; money in nanodollars."""

    id: UUID
    epoch: int
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


class Origin(msgspec.Struct, frozen=True):
    """Where a request's chunks come from: a claim, its own or its leader's, and the run of that."""

    claimed: UUID
    run: UUID


class Progress(msgspec.Struct, frozen=True):
    """How far a request is that has not ended."""

    epoch: int
    """Of the present claim; where the request follows, as `led` has it."""
    origin: Origin | None
    """None where no run has it."""


async def followers_of(
    database: Fetches, leaders: Sequence[UUID]
) -> dict[UUID, list[tuple[UUID, UUID]]]:
    """By leader, each follower that someone waits for, and the channel of who does."""
    found: dict[UUID, list[tuple[UUID, UUID]]] = {}
    for leader, follower, channel in await database.fetch(FOLLOWERS, leaders):
        found.setdefault(leader, []).append((follower, channel))
    return found


async def progress_of(database: Fetches, ids: Sequence[UUID]) -> dict[UUID, Progress]:
    """How far those of the requests are that have not ended."""
    return {
        row["id"]: Progress(
            led(row["epoch"]) if row["follows"] else row["epoch"],
            None if row["run"] is None else Origin(row["claimed"], row["run"]),
        )
        for row in await database.fetch(PROGRESS, ids)
    }


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
        [led(leader.epoch) for leader in leaders],
    )
    chunks = {leader.id: len(chunks_of(leader.body)) for leader in leaders}
    return [
        Followed(
            row["channel"],
            Finished(
                *(row["id"], row["epoch"], Outcome.COMPLETED, 200, None),
                chunks=chunks[row["leader"]] if row["streamed"] else 0,
                source=None if backend is None else Source(backend, row["upstream"] or ""),
            ),
        )
        for row in rows
    ]


class Woken(msgspec.Struct, frozen=True):
    """Followers that run by themselves now."""

    waiting: list[Waiting]
    """Where they wait, but for those that are delayed."""
    lost: list[tuple[UUID, Lost]]
    """What to tell those that stream, with the channel of each."""


async def wake(database: Fetches, leaders: Sequence[UUID], *, begun: bool = False) -> Woken:
    """Let the followers of requests that failed run by themselves.

    ``begun``: the leaders may have streamed, and the followers' clients may have read of it.
    """
    rows = await database.fetch(WAKE, leaders, begun, STREAM_DELAY_SECONDS)
    streams = [row for row in rows if row["streamed"] and row["channel"] is not None]
    return Woken(
        list(
            {
                Waiting(row["model"], row["class"], row["team_id"], row["rank"], row["share"])
                for row in rows
                if row["state"] == QueueState.WAITING
            }
        ),
        [(row["channel"], Lost(row["id"], row["epoch"])) for row in streams],
    )


class Orphans(msgspec.Struct, frozen=True):
    """What the sweep did for followers without a leader, and leaders without followers."""

    answered: list[Followed]
    waiting: list[Waiting]
    lost: list[tuple[UUID, Lost]]
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
            epoch=row["epoch"],
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
    if failed:
        # A ghost's own result tells nothing of the answer that its run may just be giving to them.
        await asyncio.sleep(RESOLVE_SECONDS)
    woken = await wake(database, failed, begun=True) if failed else Woken([], [])
    forlorn = await database.fetch(FORLORN)
    gone = [(row["owner"], Gone(row["id"], row["epoch"])) for row in forlorn if row["owner"]]
    return Orphans(answered, woken.waiting, woken.lost, gone)
