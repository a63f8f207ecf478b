"""How much ended when, and how deep the queue was: series over a window, of a few names at most.

Steps of 10 seconds are kept for some hours and steps of 5 minutes for a week, by `db.history`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from db.database import Fetches

MOST_SERIES: Final = 20
OTHERS: Final = "others"
CARRIED_SECONDS: Final = 120.0
"""A sample of the queue holds for so long, where the next comes late: counting may take long."""
_STEP: Final = "to_timestamp(floor(extract(epoch from {alias}.at) / $2) * $2)"
_TEAM: Final = "case {alias}.team_id when 0 then 'others' else coalesce(t.name, '') end"
# The mean of the samples in a step. A sample of an empty queue is one row without a model.
_DEPTHS: Final = """
with sampled as (
    select
        {step} as at, {name} as name, d.model = '' as empty, d.at as sample,
        sum(d.waiting) as waiting, sum(d.in_flight) as in_flight, max(d.oldest_seconds) as oldest
    from queue_depths d left join teams t on t.id = d.team_id
    where d.span_seconds = any($3::integer[]) and d.at >= $1
    group by 1, 2, 3, 4
),
samples as (select at, count(distinct sample) as number from sampled group by at)
select
    extract(epoch from s.at)::float8 as at, s.name, s.empty,
    (sum(s.waiting) / min(n.number))::float8 as waiting,
    (sum(s.in_flight) / min(n.number))::float8 as in_flight, max(s.oldest)::float8 as oldest
from sampled s join samples n on n.at = s.at
group by s.at, s.name, s.empty
"""
BEFORE: Final = """
select model = '' as empty
from (
    (
        select at, model from queue_depths where span_seconds = 10 and at < $1
        order by at desc, model limit 1
    )
    union all
    (
        select at, model from queue_depths where span_seconds = 300 and at < $1
        order by at desc, model limit 1
    )
) last
order by at desc, model limit 1
"""
_ACTIVITY: Final = """
select
    extract(epoch from {step})::float8 as at, {name} as name,
    sum(a.completed + a.failed)::float8 as requests,
    sum(a.failed + a.expired)::float8 as failed, sum(a.prompt_tokens)::float8 as prompt,
    sum(a.completion_tokens)::float8 as completion
from activity a left join teams t on t.id = a.team_id
where a.span_seconds = any($3::integer[]) and a.at >= $1
group by 1, 2
"""
Row = Mapping[str, Any]


class Window(StrEnum):
    """How far back, and so in which steps."""

    HOUR = "1h"
    DAY = "24h"

    @property
    def step_seconds(self) -> int:
        """The length of a step."""
        return 10 if self is Window.HOUR else 300

    @property
    def steps(self) -> int:
        """How many there are."""
        return 360 if self is Window.HOUR else 288


class DepthBy(StrEnum):
    """By what the depths are told apart."""

    MODEL = "model"
    CLASS = "class"
    TEAM = "team"


class ActivityBy(StrEnum):
    """By what the activity is told apart; a backend's name is empty for what none answered."""

    MODEL = "model"
    TEAM = "team"
    BACKEND = "backend"


_DEPTH_NAMES: Final = {
    DepthBy.MODEL: "d.model",
    DepthBy.CLASS: "case d.class when 0 then 'interactive' when 1 then 'flex' else 'batch' end",
    DepthBy.TEAM: _TEAM.format(alias="d"),
}
_ACTIVITY_NAMES: Final = {
    ActivityBy.MODEL: "a.model",
    ActivityBy.TEAM: _TEAM.format(alias="a"),
    ActivityBy.BACKEND: "a.backend",
}
DEPTHS: Final = {
    by: _DEPTHS.format(step=_STEP.format(alias="d"), name=name) for by, name in _DEPTH_NAMES.items()
}
ACTIVITY: Final = {
    by: _ACTIVITY.format(step=_STEP.format(alias="a"), name=name)
    for by, name in _ACTIVITY_NAMES.items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Arrays aligned with ``at``, the beginnings of the steps, oldest first."""

    at: Sequence[float]
    series: Sequence[Mapping[str, Any]]
    """The largest first; each has a ``name`` and its arrays."""
    oldest: Sequence[float | None] = ()
    """Of the queue: how long the first had waited at most."""


async def depth_history(
    database: Fetches, window: Window, by: DepthBy, *, now: datetime | None = None
) -> History:
    """How deep the queue was; None in a step without a sample."""
    steps = _steps(window, now)
    rows = await _rows(database, DEPTHS[by], window, steps)
    before = await database.fetch(BEFORE, datetime.fromtimestamp(steps[0], UTC))
    held = _held(rows, steps, empty=bool(before) and before[0]["empty"])
    oldest = [
        max((row["oldest"] for row in held[place]), default=0.0) if place in held else None
        for place in range(len(steps))
    ]
    return History(
        at=steps,
        oldest=[_rounded(seconds) for seconds in oldest],
        series=_series(
            [row | {"place": place} for place, found in held.items() for row in found],
            {"waiting": "waiting", "in_flight": "in_flight"},
            [0.0 if place in held else None for place in range(len(steps))],
            size=lambda row: row["waiting"] + row["in_flight"],
        ),
    )


async def activity_history(
    database: Fetches, window: Window, by: ActivityBy, *, now: datetime | None = None
) -> History:
    """What ended in each second of the steps."""
    steps = _steps(window, now)
    places = {at: place for place, at in enumerate(steps)}
    rows = await _rows(database, ACTIVITY[by], window, steps)
    return History(
        at=steps,
        series=_series(
            [row | {"place": places[row["at"]]} for row in rows if row["at"] in places],
            {
                "requests_per_second": "requests",
                "input_tokens_per_second": "prompt",
                "output_tokens_per_second": "completion",
                "failed_per_second": "failed",
            },
            [0.0] * len(steps),
            size=lambda row: row["requests"],
            scale=1 / window.step_seconds,
        ),
    )


def _steps(window: Window, now: datetime | None) -> list[float]:
    """The beginnings of the steps, up to the last that is over."""
    step = window.step_seconds
    end = (now or datetime.now(UTC)).timestamp() // step * step
    return [end - step * back for back in range(window.steps, 0, -1)]


async def _rows(
    database: Fetches, query: str, window: Window, steps: Sequence[float]
) -> list[dict[str, Any]]:
    since = datetime.fromtimestamp(steps[0] - CARRIED_SECONDS, UTC)
    spans = [10] if window is Window.HOUR else [10, 300]
    found = await database.fetch(query, since, float(window.step_seconds), spans)
    return [dict(row) for row in found]


def _held(
    rows: Sequence[dict[str, Any]], steps: Sequence[float], *, empty: bool
) -> dict[int, list[dict[str, Any]]]:
    """By the place of each step what its samples hold, or those shortly before it.

    That the queue is ``empty`` is noted once, and holds until the next sample.
    """
    samples: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        samples.setdefault(row["at"], []).append(row)
    times = sorted(samples)
    held: dict[int, list[dict[str, Any]]] = {}
    index, last = 0, -math.inf
    for place, at in enumerate(steps):
        while index < len(times) and times[index] <= at:
            last = times[index]
            empty = any(row["empty"] for row in samples[last])
            index += 1
        if at == last or (not empty and at - last <= CARRIED_SECONDS):
            held[place] = [row for row in samples[last] if not row["empty"]]
        elif empty:
            held[place] = []
    return held


def _series(
    rows: Sequence[Row],
    fields: Mapping[str, str],
    blank: Sequence[float | None],
    *,
    size: Callable[[Row], float],
    scale: float = 1.0,
) -> list[dict[str, Any]]:
    """The rows as arrays by their names; those that had no room are `OTHERS` together."""
    sizes: dict[str, float] = {}
    for row in rows:
        sizes[row["name"]] = sizes.get(row["name"], 0.0) + size(row)
    names = sorted(sizes, key=lambda name: (name == OTHERS, -sizes[name], name))
    told = names if len(names) <= MOST_SERIES else [*names[: MOST_SERIES - 1], OTHERS]
    arrays = {name: {field: list(blank) for field in fields} for name in told}
    for row in rows:
        mine = arrays.get(row["name"]) or arrays[OTHERS]
        for field, column in fields.items():
            mine[field][row["place"]] = (mine[field][row["place"]] or 0.0) + row[column] * scale
    return [
        {"name": name, **{field: [_rounded(v) for v in found] for field, found in mine.items()}}
        for name, mine in arrays.items()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
