"""What an operator must act on, found in what an overview is made of; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from carpool.overview import BackendView, Problem, Rates
from carpool.reasons import Reason, Waits
from carpool.states import ServiceClass
from db.depths import Depth, Depths
from db.reasons import GroupKey
from db.standing import Standing

ERROR_RATE: Final = 0.1
LEAST_ENDED: Final = 10
"""Of fewer requests a share that failed says nothing."""
MOST_PROBLEMS: Final = 50
PATIENCE_SECONDS: Final = 600.0
"""After which an interactive request has waited too long."""
NOWHERE: Final = {
    Reason.NO_LIVE_BACKEND: "No live backend answers",
    Reason.NO_ROUTE: "No route answers",
}


def problems(
    standing: Standing,
    depths: Depths,
    reasons: Mapping[GroupKey, Waits],
    backends: Sequence[BackendView],
    rates: Rates,
    *,
    redis_away: bool,
) -> list[Problem]:
    """The gravest kind first, `MOST_PROBLEMS` at most."""
    found = [
        *_stuck(depths.rows, reasons, standing.at),
        *_broken(standing, backends),
        *_failing(standing, rates),
        *_late(depths.rows, standing.at),
        *(
            [Problem(code="redis_away", text="Redis is away: all goes on, a little slower.")]
            if redis_away
            else []
        ),
    ]
    return found[:MOST_PROBLEMS]


def _stuck(
    rows: Sequence[Depth], reasons: Mapping[GroupKey, Waits], at: float
) -> Iterable[Problem]:
    """Models of which requests wait, and nobody may answer them."""
    stuck: dict[tuple[str, Reason], list[tuple[Depth, Waits]]] = {}
    for depth in rows:
        why = reasons.get((depth.model, int(depth.service_class), depth.team_id))
        if depth.waiting and why is not None and why.reason in NOWHERE:
            stuck.setdefault((depth.model, why.reason), []).append((depth, why))
    for (model, reason), depths in stuck.items():
        number = sum(depth.waiting for depth, _ in depths)
        yield Problem(
            code=str(reason),
            text=f"{NOWHERE[reason]} '{model}', for which {_requests(number)}. {depths[0][1].text}",
            model=model,
            since_seconds=round(max(depth.age_seconds(at) for depth, _ in depths), 3),
        )


def _broken(standing: Standing, backends: Sequence[BackendView]) -> Iterable[Problem]:
    for view in backends:
        if view.state == "down" and view.runs:
            yield Problem(
                code="backend_down",
                text=f"The backend '{view.backend}' does not answer; its worker asks on.",
                backend=view.backend,
            )
        died = [
            process.dead_seconds
            for process in standing.processes
            if process.backend == view.backend and process.dead_seconds is not None
        ]
        if died and view.state in ("absent", "down"):
            yield Problem(
                code="worker_dead",
                text=f"The last worker of '{view.backend}' has died.",
                backend=view.backend,
                since_seconds=round(min(died), 3),
            )


def _failing(standing: Standing, rates: Rates) -> Iterable[Problem]:
    tried = sum(ended.failed + ended.completed for ended in standing.recent)
    if rates.error_rate is not None and rates.error_rate > ERROR_RATE and tried >= LEAST_ENDED:
        yield Problem(
            code="error_rate",
            text=f"{rates.error_rate:.0%} of the last {tried} requests failed.",
            since_seconds=rates.span_seconds,
        )


def _late(rows: Sequence[Depth], at: float) -> Iterable[Problem]:
    waited: dict[str, float] = {}
    for depth in rows:
        if depth.service_class is ServiceClass.INTERACTIVE:
            waited[depth.model] = max(waited.get(depth.model, 0.0), depth.age_seconds(at))
    for model, seconds in waited.items():
        if seconds > PATIENCE_SECONDS:
            yield Problem(
                code="late",
                text=f"Interactive requests for '{model}' have waited {seconds / 60:.0f} minutes.",
                model=model,
                since_seconds=round(seconds, 3),
            )


def _requests(number: int) -> str:
    return "1 request waits" if number == 1 else f"{number:,} requests wait"
