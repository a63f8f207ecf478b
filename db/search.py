"""Requests of all teams, newest first, found without reading a large table whole.

What a page walks:

- all requests, a team's or a batch's: `requests` by id;
- ended ones: `results` by (team, outcome, id), with a probe for each team where none is given;
- those that a run or a provider batch has: all that are owned, no more than these can hold;
- queued ones of a team or a model: the groups of the queue that can be claimed, each by id, and all
  that backs off, follows or is suspect; of others: `queue` by id.

Where a condition has no index (a model among `requests` or `results`, a state among the queue's
ids), a page looks at `LOOKED_AT` rows and no more: it may be short, or empty, and says where to go
on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from carpool.ids import line_bounds
from carpool.states import Outcome, RequestStatus
from db.database import Database, Fetches

LOOKED_AT: Final = 10_000
LAST: Final = UUID(int=2**128 - 1)
BATCH_TEAM = "select team_id from batches where id = $1"
DETAILS = """
select r.id, r.team_id, t.name, r.class, r.person, r.batch_id, r.custom_id
from unnest($1::uuid[]) as asked(id)
join requests r on r.id = asked.id
left join teams t on t.id = r.team_id
"""
# A skip scan: a step for each model that has something to claim.
QUEUED_MODELS = """
with recursive m(model) as (
    (
        select least(
            (select model from queue where state = 0 and share is null order by model limit 1),
            (select model from queue where state = 0 and share is not null order by model limit 1)
        )
    )
    union all
    select least(
        (
            select q.model from queue q
            where q.state = 0 and q.share is null and q.model > m.model order by q.model limit 1
        ),
        (
            select q.model from queue q
            where q.state = 0 and q.share is not null and q.model > m.model
            order by q.model limit 1
        )
    )
    from m where m.model is not null
)
select model from m where model is not null
"""
BODY = "select body from requests where id = $1"
OUTCOMES = {RequestStatus.of(outcome): outcome for outcome in Outcome}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is looked for; None is whatever."""

    team_id: int | None = None
    status: RequestStatus | None = None
    model: str | None = None
    batch: UUID | None = None


class Page(msgspec.Struct, frozen=True):
    """Ids, newest first, and before which id to go on; None where there are no more."""

    ids: Sequence[UUID]
    before: UUID | None


class Details(msgspec.Struct, frozen=True):
    """What admins see of a request beside what its team does; in the columns' order."""

    id: UUID
    team_id: int
    team: str | None
    service_class: int
    person: str | None
    batch_id: UUID | None
    custom_id: str | None
    """As a JSON string."""


@dataclass(slots=True)
class _Walk:
    """A statement of ids in the making: where it walks, and what it passes over."""

    text: str = ""
    values: list[Any] = field(default_factory=list)
    condition: str | None = None
    """What has no index: only so many rows are looked at for it."""
    condition_values: list[Any] = field(default_factory=list)

    def bind(self, value: Any) -> str:
        """The name of a parameter with this value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def pass_over(self, model: str | None, *conditions: str) -> None:
        """Pass over what is of another model or breaks a condition, once all else is bound."""
        if model is not None:
            self.condition_values.append(model)
            conditions += (f"model = ${len(self.values) + 1}",)
        if conditions:
            self.condition = " and ".join(conditions)

    def page(self, limit: int) -> tuple[str, list[Any]]:
        """The statement of a page."""
        if self.condition is None:
            found = self.text
        else:
            found = f"select * from ({self._looked}) looked where {self.condition}"  # noqa: S608 - texts of this module
        page = f"select id from ({found}) found order by id desc limit {limit}"  # noqa: S608 - texts of this module
        return page, [*self.values, *self.condition_values]

    @property
    def end(self) -> tuple[str, list[Any]]:
        """The statement of the last id that is looked at; no row where all are."""
        text = f"select id from ({self._looked}) looked order by id desc offset {LOOKED_AT - 1}"  # noqa: S608 - texts of this module
        return text, self.values

    @property
    def _looked(self) -> str:
        return f"select * from ({self.text}) walked order by id desc limit {LOOKED_AT}"  # noqa: S608 - texts of this module


async def search(
    database: Database, wanted: Wanted, *, before: UUID | None = None, limit: int
) -> Page:
    """A page of what is wanted, from the first id before ``before`` on."""
    async with database.by_index() as driver:
        team_id = wanted.team_id
        if wanted.batch is not None:
            owner = await driver.fetchval(BATCH_TEAM, wanted.batch)
            if owner is None or team_id not in (None, owner):
                return Page([], None)
            team_id = owner
        walk = _walk(wanted, team_id, before or LAST, limit + 1)
        text, values = walk.page(limit + 1)
        ids = [row["id"] for row in await driver.fetch(text, *values)]
        if len(ids) > limit:
            return Page(ids[:limit], ids[limit - 1])
        if walk.condition is None:
            return Page(ids, None)
        text, values = walk.end
        return Page(ids, await driver.fetchval(text, *values))


def ids_of_unfinished(
    wanted: Wanted, *, before: UUID | None = None, limit: int
) -> tuple[str, list[Any]]:
    """The statement of a whole page of what a team has in the queue, of one status; by index."""
    return _walk(wanted, wanted.team_id, before or LAST, limit).page(limit)


def _walk(wanted: Wanted, team_id: int | None, before: UUID, limit: int) -> _Walk:
    """Where to walk, down from an id."""
    walk = _Walk()
    low, high = _bounds(wanted.batch, before)
    within = f"id > {walk.bind(low)} and id < {walk.bind(high)}"
    team = None if team_id is None else f"{walk.bind(team_id)}::integer"
    if team is not None:
        within += f" and team_id = {team}"
    status, model = wanted.status, wanted.model
    if status is None:
        walk.text = f"select id, model from requests where {within}"  # noqa: S608 - texts of this module
        walk.pass_over(model)
    elif status in OUTCOMES:
        _results(walk, OUTCOMES[status], team, model, within, limit)
    elif status is RequestStatus.QUEUED and wanted.batch is None and (team or model):
        _queued(walk, team, model, within, limit)
    elif status is RequestStatus.QUEUED:
        walk.text = f"select id, model, state, ghost from queue where {within}"  # noqa: S608 - texts of this module
        walk.pass_over(model, "state <> 1", "not ghost")
    else:
        if model is not None:
            within += f" and model = {walk.bind(model)}"
        walk.text = f"""
        with {_aside("owner is not null and state = 1")} select id from aside where {within}"""  # noqa: S608 - texts of this module
    return walk


def _results(
    walk: _Walk, outcome: Outcome, team: str | None, model: str | None, within: str, limit: int
) -> None:
    code = f"outcome = {outcome.value}"
    if team is not None:
        walk.text = f"select id, model from results where {within} and {code}"  # noqa: S608 - texts of this module
        walk.pass_over(model)
    elif model is not None:
        walk.text = f"select id, model, outcome from results where {within}"  # noqa: S608 - texts of this module
        walk.pass_over(model, code)
    else:
        walk.text = f"""
        select newest.id
        from teams
        cross join lateral (
            select id from results where team_id = teams.id and {code} and {within}
            order by id desc limit {limit}
        ) newest"""  # noqa: S608 - texts of this module


def _queued(walk: _Walk, team: str | None, model: str | None, within: str, limit: int) -> None:
    """Group by group, and the rest by the indexes that hold it."""
    models, teams = QUEUED_MODELS, "select id from teams"
    if model is not None:
        models = f"select {walk.bind(model)}::text"
        within += f" and model = ${len(walk.values)}"
    if team is not None:
        teams = f"select {team}"
    groups = " union all ".join(
        f"""
        select newest.id
        from ({models}) m(name)
        cross join ({teams}) t(id)
        cross join generate_series(0, 2) c(class)
        cross join lateral (
            select id from queue
            where model = m.name and class = c.class and team_id = t.id and state = 0
                and share {share} and not ghost and {within}
            order by id desc limit {limit}
        ) newest"""  # noqa: S608 - texts of this module
        for share in ("is null", "is not null")
    )
    others = _aside("state = 2", "state = 3", "state = 4 and leader is not null")
    walk.text = f"""
    with {others} {groups} union all select id from aside where {within}"""  # noqa: S608 - texts of this module


def _aside(*which: str) -> str:
    """Queue rows of which an index holds few, read by it whole: the name and text of a CTE.

    By itself, so that no walk by id looks for them among all that wait.
    """
    parts = " union all ".join(
        f"select id, team_id, model from queue where {condition} and not ghost"  # noqa: S608 - texts of this module
        for condition in which
    )
    return f"aside as materialized ({parts})"


def _bounds(batch: UUID | None, before: UUID) -> tuple[UUID, UUID]:
    """Between which ids to walk, both excluded."""
    if batch is None:
        return UUID(int=0), before
    low, high = line_bounds(batch)
    return low, min(before, UUID(int=high.int + 1))


async def details(database: Fetches, ids: Sequence[UUID]) -> dict[UUID, Details]:
    """Of those of the requests that there are."""
    rows = await database.fetch(DETAILS, list(ids))
    return {row["id"]: Details(*row) for row in rows}


async def body_of(database: Fetches, identifier: UUID) -> bytes:
    """What was asked, of a request that there is."""
    [row] = await database.fetch(BODY, identifier)
    return bytes(row["body"])
