"""Why requests wait, read by a few statements that find their rows by key.

For one request, and for whole groups of the queue::

    await reason_of(database, identifier)              -> Waits | None
    await group_reasons(database, [(model, class, team_id), ...])
                                                       -> dict[(model, class, team_id), Waits]

Both take ``situation=``, what is known of routes and backends (`db.situation.read_situation`): one
that is a second old serves many. The decision itself is `carpool.reasons`.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from carpool.ids import public_id
from carpool.reasons import MOST_AHEAD, AtProvider, Case, Waits, decide
from carpool.states import OwnerKind, ProviderBatchState, QueueState, ServiceClass
from db.database import Database
from db.situation import Situation, Waiter, read_situation

GroupKey: TypeAlias = tuple[str, int, int]
"""Model, class, id of the team."""

ROW = """
select
    q.id, q.model, q.class, q.team_id, q.state, q.owner_kind, q.share, q.rank, q.lost, q.attempts,
    q.leader, q.streamed,
    extract(epoch from q.not_before - now())::float8 as retry_seconds,
    extract(epoch from now() - to_timestamp(
        ('x' || substr(replace(q.id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0
    ))::float8 as age_seconds,
    extract(epoch from coalesce(q.deadline, b.expires_at) - now())::float8 as left_seconds,
    p.backend, p.state as provider_state, p.completion_window, p.provider_status,
    extract(epoch from now() - coalesce(p.submitted_at, p.created_at))::float8 as provider_seconds
from queue q
left join batches b on b.id = q.batch_id
left join provider_batches p on p.id = q.owner and q.owner_kind = 2
where q.id = $1 and not q.ghost
"""
USUAL = """
select percentile_cont(0.5) within group (order by recent.seconds) as seconds
from (
    select extract(epoch from p.ended_at - p.submitted_at)::float8 as seconds
    from provider_batches p
    where p.backend = $1 and p.completion_window = $2 and p.state = 3
        and p.provider_status in ('completed', 'expired')
    order by p.ended_at desc limit 50
) recent
"""


def _ahead(own: str, shares: str) -> str:
    """How many, up to $4, go before row $5 where the teams take turns: of each as many as of its
    own."""
    return f"""
with recursive own as (
    select count(*) as rows from (
        select 1 from queue
        where model = $1 and class = $2 and team_id = $3 and state = 0 and {shares} and {own}
        limit $4
    ) counted
), others as (
    (
        select q.team_id from queue q
        where q.model = $1 and q.class = $2 and q.state = 0 and q.{shares}
        order by q.team_id, q.id limit 1
    )
    union all
    select next.team_id
    from others o
    cross join lateral (
        select q.team_id from queue q
        where q.model = $1 and q.class = $2 and q.state = 0 and q.{shares} and q.team_id > o.team_id
        order by q.team_id, q.id limit 1
    ) next
)
select own.rows + (
    select count(*) from (
        select 1
        from others o
        cross join lateral (
            select 1 from queue q
            where q.model = $1 and q.class = $2 and q.team_id = o.team_id and q.state = 0
                and q.{shares}
            limit (select rows from own)
        ) theirs
        where o.team_id <> $3
        limit $4
    ) counted
) as ahead
from own
"""  # noqa: S608 - texts of this module


AHEAD_BY_AGE = _ahead("id < $5", "share is null")
# All of its rank and of those before, but itself; the class is named as the index names it.
AHEAD_BY_PREFIX = _ahead("class = 2 and id <> $5 and rank <= $6", "share is null")
AHEAD_BY_SHARE = _ahead("id <> $5", "share is not null")
AHEAD_OF_SUSPECT = f"""
select count(*) as ahead from (
    select 1 from queue where state = 3 and model = $1 and (lost, id) < ($2, $3)
    limit {MOST_AHEAD + 1}
) counted
"""  # noqa: S608 - our own text
EARLIER = f"""
select coalesce(sum(counted.rows), 0)::integer as rows
from generate_series(0, $2 - 1) as earlier(class)
cross join lateral (
    select count(*) as rows from (
        (
            select 1 from queue
            where model = $1 and class = earlier.class and state = 0 and share is null
            limit {MOST_AHEAD + 1}
        )
        union all
        (
            select 1 from queue
            where model = $1 and class = earlier.class and state = 0 and share is not null
            limit {MOST_AHEAD + 1}
        )
        limit {MOST_AHEAD + 1}
    ) rows
) counted
"""  # noqa: S608 - our own text
# The oldest row of each group that can be claimed; else a suspect.
HEADS = """
select
    asked.model, asked.class, asked.team_id, coalesce(aged.state, shared.state, suspect.state)
        as state, shared.share, coalesce(suspect.lost, 0) as lost,
    extract(epoch from now() - to_timestamp(
        ('x' || substr(replace(coalesce(aged.id, shared.id, suspect.id)::text, '-', ''), 1, 12))
            ::bit(48)::bigint / 1000.0
    ))::float8 as age_seconds
from unnest($1::text[], $2::smallint[], $3::integer[]) as asked(model, class, team_id)
left join lateral (
    select q.id, q.state from queue q
    where q.model = asked.model and q.class = asked.class and q.team_id = asked.team_id
        and q.state = 0 and q.share is null
    order by q.id limit 1
) aged on true
left join lateral (
    select q.id, q.state, q.share from queue q
    where aged.id is null and q.model = asked.model and q.class = asked.class
        and q.team_id = asked.team_id and q.state = 0 and q.share is not null
    order by q.id limit 1
) shared on true
left join lateral (
    select q.id, q.state, q.lost from queue q
    where aged.id is null and shared.id is null and q.state = 3 and q.model = asked.model
        and q.class = asked.class and q.team_id = asked.team_id
    order by q.lost, q.id limit 1
) suspect on true
"""
LOOKED_AT = 2_000
"""Of what backs off and what follows, so many rows say for which groups it does."""
BACKING_OFF = f"""
select model, class, team_id, extract(epoch from min(not_before) - now())::float8 as retry_seconds
from (select * from queue where state = 2 order by not_before limit {LOOKED_AT}) soonest
group by model, class, team_id
"""  # noqa: S608 - our own text
FOLLOWING = f"""
select distinct model, class, team_id
from (select * from queue where leader is not null order by leader limit {LOOKED_AT}) first
"""  # noqa: S608 - our own text


async def reason_of(
    database: Database, identifier: UUID, *, situation: Situation | None = None
) -> Waits | None:
    """Why a request waits; None where it does not: a run has it, it has ended, or there is none."""
    if situation is None:
        situation = await read_situation(database)
    async with database.by_index() as driver:
        rows = await driver.fetch(ROW, identifier)
        if not rows:
            return None
        [row] = rows
        if row["state"] == QueueState.CLAIMED:
            if row["owner_kind"] != OwnerKind.PROVIDER_BATCH or row["backend"] is None:
                return None
            return decide(_case(row, situation, provider=await _provider(driver, row)))
        ahead, earlier = await _before(driver, row)
        return decide(_case(row, situation, ahead=ahead, earlier=earlier))


async def group_reasons(
    database: Database, groups: Collection[GroupKey], *, situation: Situation | None = None
) -> dict[GroupKey, Waits]:
    """Why groups of the queue wait, by what is first in each; no entry where nothing does."""
    if not groups:
        return {}
    if situation is None:
        situation = await read_situation(database)
    async with database.by_index() as driver:
        heads = await driver.fetch(HEADS, *(list(column) for column in zip(*groups, strict=True)))
        found = {
            _key(row): (row, QueueState(row["state"])) for row in heads if row["state"] is not None
        }
        if len(found) < len(heads):
            for query, state in (
                (BACKING_OFF, QueueState.BACKING_OFF),
                (FOLLOWING, QueueState.FOLLOWING),
            ):
                for row in await driver.fetch(query):
                    found.setdefault(_key(row), (row, state))
    first: dict[str, int] = {}
    for (model, service_class, _), (_, state) in found.items():
        if state is QueueState.WAITING:
            first[model] = min(service_class, first.get(model, service_class))
    return {
        key: decide(_group_case(*found[key], situation, earlier=first.get(key[0], key[1]) < key[1]))
        for key in groups
        if key in found
    }


def _group_case(row: Any, state: QueueState, situation: Situation, *, earlier: bool) -> Case:
    """``earlier``: whether a class of its model that goes first waits, too."""
    service_class = ServiceClass(row["class"])
    case = partial(Case, model=row["model"], service_class=service_class, state=state)
    if state is QueueState.BACKING_OFF:
        return case(retry_seconds=row["retry_seconds"])
    if state is QueueState.FOLLOWING:
        return case()
    return case(
        routed=row["model"] in situation.routing.routes,
        servers=situation.servers(
            Waiter(
                model=row["model"],
                service_class=service_class,
                team=situation.teams.get(row["team_id"], ""),
                share=row["share"],
                age_seconds=row["age_seconds"],
            )
        ),
        lost=row["lost"],
        earlier=int(earlier),
    )


def _case(
    row: Any,
    situation: Situation,
    *,
    ahead: int | None = None,
    earlier: int = 0,
    provider: AtProvider | None = None,
) -> Case:
    service_class = ServiceClass(row["class"])
    state = QueueState(row["state"])
    return Case(
        model=row["model"],
        service_class=service_class,
        state=state,
        routed=row["model"] in situation.routing.routes,
        servers=situation.servers(
            Waiter(
                model=row["model"],
                service_class=service_class,
                team=situation.teams.get(row["team_id"], ""),
                share=row["share"],
                streamed=row["streamed"],
                age_seconds=row["age_seconds"],
                left_seconds=row["left_seconds"],
            )
        ),
        ahead=ahead,
        ordered=state is QueueState.SUSPECT
        or (row["share"] is None and service_class is not ServiceClass.BATCH),
        earlier=earlier,
        per_second=situation.pace.get(row["model"]),
        retry_seconds=row["retry_seconds"],
        attempts=row["attempts"] + row["lost"],
        lost=row["lost"],
        leader=None if row["leader"] is None else public_id("req_", row["leader"]),
        provider=provider,
    )


async def _before(driver: Any, row: Any) -> tuple[int | None, int]:
    """How many of its class go before a row that waits, and how many of earlier classes."""
    state = QueueState(row["state"])
    if state is QueueState.SUSPECT:
        place = (row["model"], row["lost"], row["id"])
        return (await driver.fetchval(AHEAD_OF_SUSPECT, *place)), 0
    if state is not QueueState.WAITING:
        return None, 0
    earlier = await driver.fetchval(EARLIER, row["model"], row["class"])
    if earlier > MOST_AHEAD:
        return 0, earlier
    left = MOST_AHEAD + 1 - earlier
    values = (row["model"], row["class"], row["team_id"], left, row["id"])
    if row["share"] is not None:
        return (await driver.fetchval(AHEAD_BY_SHARE, *values)), earlier
    if row["class"] == ServiceClass.BATCH:
        return (await driver.fetchval(AHEAD_BY_PREFIX, *values, row["rank"])), earlier
    return (await driver.fetchval(AHEAD_BY_AGE, *values)), earlier


async def _provider(driver: Any, row: Any) -> AtProvider:
    window = row["completion_window"]
    return AtProvider(
        backend=row["backend"],
        state=ProviderBatchState(row["provider_state"]),
        window=window,
        status=row["provider_status"],
        seconds=row["provider_seconds"],
        usual_seconds=await driver.fetchval(USUAL, row["backend"], window),
    )


def _key(row: Any) -> GroupKey:
    return row["model"], row["class"], row["team_id"]
