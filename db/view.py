"""Requests as their owners see them: one object put together from the rows about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from carpool.prices import COLUMNS, Ledger
from carpool.routing import Leg, resolved, upstreams
from carpool.states import Outcome, QueueState, RequestStatus, ServiceClass
from db.database import Database
from db.routes import list_routes
from db.search import Wanted, ids_of_unfinished

VIEW = """
select
    r.id, r.endpoint, r.model, r.streamed, r.class, r.deadline, q.state, q.claimed_at, q.share,
    run.backend as run_backend, (select name from teams where id = r.team_id) as team,
    p.backend as batch_backend, p.upstream as batch_upstream, p.reason,
    s.outcome, s.status_code, s.body, s.backend, s.upstream, s.started_at, s.completed_at,
    s.attempts, s.paid, s.saved_shared, s.saved_cache, s.saved_prefix, s.saved_window, s.saved_own,
    (select count(*) from attempts a where a.id = r.id) as ended_claims
from requests r
left join queue q on q.id = r.id
left join runs run on run.id = q.owner
left join results s on s.id = r.id
left join provider_batches p on p.id = coalesce(q.owner, s.run_id)
"""
ONE = VIEW + "where r.id = :id and r.team_id = :team_id"
UNSEEN = VIEW.replace("s.body,", "null::bytea as body,")
# Finished requests are walked by their results: a team with a long history may have few of them.
CONDITIONS = {
    RequestStatus.COMPLETED: ("s", "s.outcome = 0"),
    RequestStatus.FAILED: ("s", "s.outcome = 1"),
    RequestStatus.CANCELLED: ("s", "s.outcome = 2"),
    RequestStatus.EXPIRED: ("s", "s.outcome = 3"),
}
UNFINISHED = (RequestStatus.QUEUED, RequestStatus.IN_PROGRESS)
MAX_PAGE = 100
# When the route of a model was last changed, or one that it leads to by an alias.
CHANGED = """
with recursive chain (model, target) as (
    select model, model from routes where model = any($1::text[])
    union
    select c.model, r.alias from chain c join routes r on r.model = c.target
    where r.alias is not null
)
select c.model, max(r.changed_at) as changed_at
from chain c join routes r on r.model = c.target
group by c.model
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestView:
    """What is known of a request now; times are None until they have come."""

    id: UUID
    status: RequestStatus
    endpoint: int
    model: str
    streamed: bool
    backend: str | None
    upstream: str | None
    """While a run has it, None where its route has changed since, or has several names for it."""
    ledger: Ledger | None
    """None where it has not ended."""
    reason: str | None
    """Why it went to the provider batch that holds it, or answered it."""
    deadline: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    attempts: int
    status_code: int | None
    body: bytes | None


async def view(database: Database, identifier: UUID, *, team_id: int) -> RequestView | None:
    """One request of a team; None where it has none of this id."""
    async with database.connect() as connection:
        found = await connection.execute(text(ONE), {"id": identifier, "team_id": team_id})
        row = found.mappings().one_or_none()
    return None if row is None else (await _views(database, [row]))[0]


async def page(
    database: Database,
    *,
    team_id: int,
    status: RequestStatus | None = None,
    model: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> list[RequestView]:
    """A team's requests, newest first, at most ``limit`` from the one after ``after`` on."""
    if status in UNFINISHED:
        wanted = Wanted(team_id=team_id, status=status, model=model)
        return await _unfinished(database, wanted, after=after, limit=limit)
    walked, condition = ("r", "true") if status is None else CONDITIONS[status]
    conditions = [f"{walked}.team_id = :team_id", condition]
    values: dict[str, Any] = {"team_id": team_id, "limit": limit}
    if model is not None:
        conditions.append("r.model = :model")
        values["model"] = model
    if after is not None:
        conditions.append(f"{walked}.id < :after")
        values["after"] = after
    query = f"{VIEW} where {' and '.join(conditions)} order by {walked}.id desc limit :limit"
    async with database.connect() as connection:
        rows = (await connection.execute(text(query), values)).mappings().all()
    return await _views(database, rows)


async def _unfinished(
    database: Database, wanted: Wanted, *, after: UUID | None, limit: int
) -> list[RequestView]:
    """Found by the indexes of the queue: a team may have few rows, or none, of the many there."""
    ids, values = ids_of_unfinished(wanted, before=after, limit=limit)
    query = f"{VIEW} where r.id = any(array({ids})) order by r.id desc"
    async with database.by_index() as driver:
        rows = await driver.fetch(query, *values)
    return await _views(database, rows)


async def views(database: Database, ids: Sequence[UUID]) -> list[RequestView]:
    """Those of the requests that there are, of whatever team, newest first, without bodies."""
    query = f"{UNSEEN} where r.id = any(:ids) order by r.id desc"
    async with database.connect() as connection:
        rows = (await connection.execute(text(query), {"ids": list(ids)})).mappings().all()
    return await _views(database, rows)


async def _views(database: Database, rows: Sequence[Any]) -> list[RequestView]:
    running = {row["model"] for row in rows if _runs(row)}
    if not running:
        return [_view(row, None) for row in rows]
    changed = dict(await database.fetch(CHANGED, list(running)))
    routes = await list_routes(database)
    legs = {model: resolved(model, routes).legs for model in running & routes.keys()}
    return [_view(row, _upstream(row, legs, changed)) for row in rows]


def _upstream(
    row: Any, legs: Mapping[str, Sequence[Leg]], changed: Mapping[str, datetime]
) -> str | None:
    """The model's name where a run computes it, by the route that led there."""
    model = row["model"]
    if not _runs(row) or model not in legs or model not in changed:
        return None
    if changed[model] >= row["claimed_at"]:
        return None
    names = upstreams(
        legs[model],
        row["run_backend"],
        service_class=ServiceClass(row["class"]),
        team=row["team"],
        share=row["share"],
    )
    return names.pop() if len(names) == 1 else None


def _runs(row: Any) -> bool:
    """Whether a run has it."""
    return row["outcome"] is None and row["run_backend"] is not None


def _view(row: Any, upstream: str | None) -> RequestView:
    ended = row["outcome"] is not None
    if ended:
        status = RequestStatus.of(Outcome(row["outcome"]))
    elif row["state"] == QueueState.CLAIMED:
        status = RequestStatus.IN_PROGRESS
    else:
        status = RequestStatus.QUEUED
    ran = ended and row["started_at"] is not None
    same = ("id", "endpoint", "model", "streamed", "reason", "deadline", "completed_at")
    return RequestView(
        **{name: row[name] for name in (*same, "status_code", "body")},
        status=status,
        backend=row["backend"] if ended else row["run_backend"] or row["batch_backend"],
        upstream=row["upstream"] or row["batch_upstream"] or upstream,
        ledger=Ledger(**{name: row[name] for name in COLUMNS}) if ended else None,
        started_at=row["started_at"] if ended else row["claimed_at"],
        attempts=row["ended_claims"] + (1 if ran or status is RequestStatus.IN_PROGRESS else 0),
    )
