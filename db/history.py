"""The histories that operators look back on: samples of the queue, and the folding of old steps."""

from collections.abc import Sequence
from typing import Final

from db.database import Fetches
from db.depths import Depth, DepthCounter, Depths

SAMPLE_SECONDS: Final = 9.5
"""A step of 10 seconds, less what the loop that asks may come late."""
REST_SHARE: Final = 300
"""As of `db.depths`: a history costs a third of a percent of a core at most."""
MOST_GROUPS: Final = 200
"""Of one sample; the rest of it is kept by model and class."""
RECORD: Final = """
insert into queue_depths (
    span_seconds, at, model, class, team_id, waiting, in_flight, oldest_seconds
)
select
    10, to_timestamp(floor($1::float8 / 10) * 10), model, class, team_id, sum(waiting),
    sum(in_flight), max(oldest)
from unnest($2::text[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[], $7::float8[])
    as d(model, class, team_id, waiting, in_flight, oldest)
group by model, class, team_id
on conflict do nothing
"""
OLDEST_STEP: Final = """
select extract(epoch from min(at))::float8 as at from {table}
where span_seconds = 10 and at < now() - interval '2 hours 5 minutes'
"""
# Each moves five minutes from their beginning $1 on; of depths the mean, of activity the sum.
FOLD_DEPTHS: Final = """
with old as (
    delete from queue_depths
    where span_seconds = 10 and at >= to_timestamp($1::float8)
        and at < to_timestamp($1::float8 + 300)
    returning *
)
insert into queue_depths (
    span_seconds, at, model, class, team_id, waiting, in_flight, oldest_seconds
)
select
    300, to_timestamp($1::float8), model, class, team_id,
    round(sum(waiting)::numeric / (select count(distinct at) from old)),
    round(sum(in_flight)::numeric / (select count(distinct at) from old)), max(oldest_seconds)
from old
group by model, class, team_id
on conflict do nothing
"""
FOLD_ACTIVITY: Final = """
with old as (
    delete from activity
    where span_seconds = 10 and at >= to_timestamp($1::float8)
        and at < to_timestamp($1::float8 + 300)
    returning *
)
insert into activity as a (
    span_seconds, at, team_id, model, backend, completed, failed, cancelled, expired,
    prompt_tokens, cached_tokens, completion_tokens
)
select
    300, to_timestamp($1::float8), team_id, model, backend, sum(completed), sum(failed),
    sum(cancelled), sum(expired), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens)
from old
group by team_id, model, backend
on conflict do nothing
"""
FORGET: Final = """
delete from {table} where span_seconds = 300 and at < now() - interval '8 days'
"""
FOLDS: Final = {"queue_depths": FOLD_DEPTHS, "activity": FOLD_ACTIVITY}
STEP_SECONDS: Final = 300


class Recorder:
    """Samples the queue for its history, in whichever process sweeps."""

    def __init__(self) -> None:
        self._counter = DepthCounter(rest_seconds=SAMPLE_SECONDS, rest_share=REST_SHARE)
        self._was_empty = False

    async def record(self, database: Fetches) -> None:
        """Take a sample, if one is due; that the queue is empty is noted once."""
        if not self._counter.due:
            return
        depths = await self._counter.look(database)
        if depths.rows or not self._was_empty:
            await database.fetch(RECORD, depths.counted_at.timestamp(), *_columns(depths))
        self._was_empty = not depths.rows


async def fold_histories(database: Fetches) -> None:
    """Fold what is older than two hours into steps of five minutes; forget it after eight days."""
    for table, fold in FOLDS.items():
        while True:
            [oldest] = await database.fetch(OLDEST_STEP.format(table=table))
            if oldest["at"] is None:
                break
            await database.fetch(fold, oldest["at"] // STEP_SECONDS * STEP_SECONDS)
        await database.fetch(FORGET.format(table=table))


def _columns(depths: Depths) -> tuple[Sequence[object], ...]:
    """The columns of a sample: the largest groups with their teams, the rest without."""
    if not depths.rows:
        return [""], [0], [0], [0], [0], [0.0]
    at = depths.counted_at.timestamp()
    rows = sorted(depths.rows, key=lambda depth: -(depth.waiting + depth.in_flight))
    told = [
        _row(depth, depth.team_id if place < MOST_GROUPS else 0, at)
        for place, depth in enumerate(rows)
    ]
    return tuple(list(column) for column in zip(*told, strict=True))


def _row(depth: Depth, team_id: int, at: float) -> tuple[object, ...]:
    return (
        depth.model,
        int(depth.service_class),
        team_id,
        depth.waiting,
        depth.in_flight,
        depth.age_seconds(at),
    )
