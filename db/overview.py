"""What waits, what runs, who serves, and what is wrong: put together from what is cheap to read.

Nothing here reads a request's row: what waits is counted at the pace that `db.depths` allows, all
else is small.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from carpool.engine import EngineFigures, decode_figures
from carpool.overview import (
    BackendView,
    BatchesView,
    EngineView,
    Overview,
    ProcessesView,
    QueueView,
    Rates,
    Saved,
    Today,
)
from carpool.prices import NANODOLLARS
from carpool.reasons import Waits
from carpool.routing import Route
from db.database import Database, Fetches
from db.depths import Depth, DepthCounter, Depths, oldest_seconds
from db.problems import problems
from db.reasons import GroupKey, group_reasons
from db.standing import ProcessRow, RunRow, Standing, Sums, read_standing

MOST_QUEUES: Final = 100
"""How many groups of the queue are told one by one."""
REASONS_SECONDS: Final = 1.0
REASONS_SHARE: Final = 200
"""Reasons are looked for again after so many times as long as the last look took."""
NEWS_SHARE: Final = 20
"""The same, once a group has come that waits, or a run or the routes have changed."""
MOST_REST_SECONDS: Final = 5.0
"""A look that took long waited for others; whom it concerns does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An overview, and marks by which it shows that what it sums up has changed."""

    overview: Overview
    depths: Depths
    standing: Standing
    marks: Mapping[str, object]


class OverviewReader:
    """Reads overviews one after the other; ``lane`` is its alone while it reads."""

    def __init__(
        self,
        database: Database,
        kinds: Mapping[str, str],
        *,
        counter: DepthCounter | None = None,
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._counter = counter or DepthCounter()
        self._reasons: dict[GroupKey, Waits] = {}
        self._reasoned: object = None
        """What the reasons held for when they were looked for."""
        self._looked_at = -math.inf
        self._look_seconds = 0.0

    async def read(
        self, lane: Fetches, routes: Mapping[str, Route], *, redis_away: bool = False
    ) -> Seen:
        """The overview now, with the routes as they hold, their aliases followed."""
        depths = await self._counter.look(lane)
        standing = await read_standing(lane)
        marks = _marks(standing)
        reasons = await self._look_for_reasons(depths, (marks["routes"], marks["workers"]))
        return Seen(
            overview=assemble(
                standing, depths, routes, reasons, kinds=self._kinds, redis_away=redis_away
            ),
            depths=depths,
            standing=standing,
            marks=marks,
        )

    async def _look_for_reasons(self, depths: Depths, holds: object) -> dict[GroupKey, Waits]:
        told = sorted(depths.rows, key=_by_waiting)[:MOST_QUEUES]
        groups = [_key(depth) for depth in told if depth.waiting]
        began = time.monotonic()
        news = holds != self._reasoned or any(group not in self._reasons for group in groups)
        if groups and began - self._looked_at >= rest_of(self._look_seconds, news=news):
            self._reasons = await group_reasons(self._database, groups)
            self._reasoned = holds
            self._looked_at, self._look_seconds = began, time.monotonic() - began
        return self._reasons


def assemble(
    standing: Standing,
    depths: Depths,
    routes: Mapping[str, Route],
    reasons: Mapping[GroupKey, Waits],
    *,
    kinds: Mapping[str, str],
    redis_away: bool = False,
) -> Overview:
    """Put an overview together; pure."""
    span = max(1.0, standing.at - standing.since)
    per_second = {ended.model: ended.requests / span for ended in standing.recent}
    drains = _drains(depths.rows, per_second)
    backends = _backends(standing, routes, kinds)
    rates = _rates(standing, span)
    return Overview(
        at=round(standing.at, 3),
        counted_at=round(depths.counted_at.timestamp(), 3),
        waiting=depths.waiting,
        in_flight=depths.in_flight,
        oldest_seconds=_rounded(oldest_seconds(depths.rows, standing.at)),
        drain_seconds=_rounded(_drained(depths.rows, drains)),
        rates=rates,
        today=_today(standing.today),
        queues=list(_queues(depths.rows, standing.at, drains, reasons)),
        backends=backends,
        processes=_processes(standing.processes),
        batches=BatchesView(
            open=standing.batches.open,
            lines_left=max(0, standing.batches.lines - standing.batches.done),
        ),
        problems=problems(standing, depths, reasons, backends, rates, redis_away=redis_away),
    )


def _queues(
    rows: Sequence[Depth],
    at: float,
    drains: Mapping[tuple[str, int], float | None],
    reasons: Mapping[GroupKey, Waits],
) -> Iterable[QueueView]:
    told = sorted(rows, key=_by_waiting)
    for depth in told[:MOST_QUEUES]:
        why = reasons.get(_key(depth)) if depth.waiting else None
        yield QueueView(
            model=depth.model,
            service_class=depth.service_class.name.lower(),
            team=depth.team,
            waiting=depth.waiting,
            in_flight=depth.in_flight,
            oldest_seconds=_rounded(depth.age_seconds(at)) if depth.waiting else None,
            drain_seconds=_rounded(drains[depth.model, depth.service_class])
            if depth.waiting
            else None,
            reason=None if why is None else str(why.reason),
            text=None if why is None else why.text,
        )
    rest: dict[tuple[str, int], list[Depth]] = {}
    for depth in told[MOST_QUEUES:]:
        rest.setdefault((depth.model, depth.service_class), []).append(depth)
    for (model, service_class), depths in list(rest.items())[:MOST_QUEUES]:
        yield QueueView(
            model=model,
            service_class=depths[0].service_class.name.lower(),
            team=None,
            waiting=sum(depth.waiting for depth in depths),
            in_flight=sum(depth.in_flight for depth in depths),
            oldest_seconds=_rounded(oldest_seconds(depths, at)),
            drain_seconds=_rounded(drains[model, service_class]),
            reason=None,
            text=None,
        )


def _drains(
    rows: Sequence[Depth], per_second: Mapping[str, float]
) -> dict[tuple[str, int], float | None]:
    """How long a model's class takes at the pace of now, with the classes before it."""
    waiting: Counter[tuple[str, int]] = Counter()
    for depth in rows:
        waiting[depth.model, depth.service_class] += depth.waiting
    found: dict[tuple[str, int], float | None] = {}
    for model, service_class in waiting:
        ahead = sum(waiting[model, earlier] for earlier in range(service_class + 1))
        pace = per_second.get(model, 0.0)
        found[model, service_class] = ahead / pace if pace else None
    return found


def rest_of(took: float, *, news: bool) -> float:
    """For how long the reasons of a look that took so many seconds hold; pure."""
    share = NEWS_SHARE if news else REASONS_SHARE
    return min(max(REASONS_SECONDS, share * took), MOST_REST_SECONDS)


def _drained(rows: Sequence[Depth], drains: Mapping[tuple[str, int], float | None]) -> float | None:
    """Until nothing waits any more; None where nothing does, or some of it does not move."""
    seconds = [drains[depth.model, depth.service_class] for depth in rows if depth.waiting]
    known = [one for one in seconds if one is not None]
    return max(known, default=None) if len(known) == len(seconds) else None


def _rates(standing: Standing, span: float) -> Rates:
    recent = standing.recent
    failed = sum(ended.failed for ended in recent)
    tried = failed + sum(ended.completed for ended in recent)
    return Rates(
        span_seconds=round(span, 1),
        requests_per_second=round(sum(ended.requests for ended in recent) / span, 3),
        input_tokens_per_second=round(sum(ended.prompt for ended in recent) / span, 3),
        output_tokens_per_second=round(sum(ended.completion for ended in recent) / span, 3),
        error_rate=round(failed / tried, 4) if tried else None,
    )


def _today(sums: Sums) -> Today:
    saved = Saved(
        shared=sums.saved_shared / NANODOLLARS,
        cache=sums.saved_cache / NANODOLLARS,
        prefix=sums.saved_prefix / NANODOLLARS,
        window=sums.saved_window / NANODOLLARS,
        own=sums.saved_own / NANODOLLARS,
    )
    nanodollars = (
        sums.saved_shared
        + sums.saved_cache
        + sums.saved_prefix
        + sums.saved_window
        + sums.saved_own
    )
    return Today(
        requests=sums.requests,
        failed=sums.failed,
        input_tokens=sums.prompt,
        cached_tokens=sums.cached,
        output_tokens=sums.completion,
        paid=sums.paid / NANODOLLARS,
        saved=nanodollars / NANODOLLARS,
        saved_by=saved,
    )


def _backends(
    standing: Standing, routes: Mapping[str, Route], kinds: Mapping[str, str]
) -> list[BackendView]:
    models: dict[str, list[str]] = {}
    for model, route in routes.items():
        for backend in {leg.backend for leg in route.legs}:
            models.setdefault(backend, []).append(model)
    workers = [process for process in standing.processes if process.backend is not None]
    names = {*models, *(r.backend for r in standing.runs), *(w.backend or "" for w in workers)}
    return [
        _backend(
            name,
            kinds.get(name),
            sorted(models.get(name, ())),
            [run for run in standing.runs if run.backend == name],
            [w for w in workers if w.backend == name and w.dead_seconds is None],
            standing.providers.get(name, 0),
        )
        for name in sorted(names)
    ]


def _backend(
    name: str,
    kind: str | None,
    models: list[str],
    runs: Sequence[RunRow],
    workers: Sequence[ProcessRow],
    gathered: int,
) -> BackendView:
    if workers and all(worker.paused for worker in workers):
        state = "paused"
    elif any(run.accepting for run in runs):
        state = "up"
    else:
        state = "down" if runs or workers else "absent"
    figures = [decode_figures(run.figures) for run in runs if run.figures is not None]
    told = next((f.kind for f in figures if f.kind is not None), None)
    patient = any(run.patient for run in runs)
    return BackendView(
        backend=name,
        kind=kind or told or ("openai_batch" if patient else "unknown"),
        state=state,
        runs=len(runs),
        in_flight=sum(run.in_flight for run in runs) + gathered,
        capacity=sum(run.capacity for run in runs),
        models=models,
        engine=_engine(figures),
    )


def _engine(figures: Sequence[EngineFigures]) -> EngineView | None:
    told = [figure for figure in figures if figure.running is not None]
    if not told:
        return None
    usages = [f.kv_cache_usage for f in told if f.kv_cache_usage is not None]
    queries = sum(figure.prefix_cache_queries or 0 for figure in told)
    hits = sum(figure.prefix_cache_hits or 0 for figure in told)
    waiting = [figure.waiting for figure in told if figure.waiting is not None]
    return EngineView(
        running=sum(figure.running or 0 for figure in told),
        waiting=sum(waiting) if waiting else None,
        kv_cache_usage=round(sum(usages) / len(usages), 4) if usages else None,
        prefix_cache_hit_rate=round(hits / queries, 4) if queries else None,
    )


def _processes(rows: Sequence[ProcessRow]) -> list[ProcessesView]:
    counts: dict[str, Counter[str]] = {"api": Counter(), "worker": Counter(), "jobs": Counter()}
    for row in rows:
        state = "dead" if row.dead_seconds is not None else "paused" if row.paused else "live"
        counts.setdefault(row.kind, Counter())[state] += 1
    return [
        ProcessesView(kind=kind, live=of["live"], paused=of["paused"], dead=of["dead"])
        for kind, of in counts.items()
    ]


def _marks(standing: Standing) -> dict[str, object]:
    return {
        "routes": standing.version,
        "workers": (
            [(p.id, p.paused, p.dead_seconds is None) for p in standing.processes],
            [(run.id, run.accepting) for run in standing.runs],
        ),
        "batches": standing.batches,
    }


def _by_waiting(depth: Depth) -> tuple[int, int]:
    return -depth.waiting, -depth.in_flight


def _key(depth: Depth) -> GroupKey:
    return depth.model, int(depth.service_class), depth.team_id


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
