"""What is to become provider batches now, out of what waits."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import NamedTuple
from uuid import UUID

from carpool.ids import new_id
from carpool.routing import Kind
from carpool.settings import OpenAIBatchSettings
from carpool.states import ServiceClass
from db.claim import Group, waiting
from db.database import Lane
from db.gathering import Gathering, Waiters, durations, paused_models, survey
from db.provider_batches import enqueued_tokens
from workers.map import Map
from workers.provider_batches.planner import (
    Choice,
    Option,
    choose,
    fitting,
    options,
    shortest_seconds,
    span_of,
)
from workers.provider_batches.token_limit import token_limit

GATHERED = (Kind.WHOLE, Kind.SHARE)
"""A leg that opens with time is of no use to a backend that takes its time."""
NO_BATCH = UUID(int=0)
BACKGROUND_ROWS = 2000
"""Of one provider batch, each a response by itself: the window's times are learned by batches."""
LEAST_ROOM = 0.1
"""Of the limit of enqueued tokens: for less than that, rows are not gathered and handed back."""


class Bucket(NamedTuple):
    """What goes together: one provider batch is of one model, endpoint and window.

    Rows that are ``verbatim`` have fewer windows to choose from, so that one fits them otherwise.
    """

    model: str
    upstream: str
    endpoint: int
    window: str
    verbatim: bool = False


@dataclass(slots=True)
class Company:
    """What waits for one bucket."""

    choice: Choice
    """Of the row with the nearest deadline."""
    deadline: datetime | None
    offered: list[Option]
    """What its rows may choose from."""
    rows: dict[Group, int] = field(default_factory=dict)
    batches: set[UUID] = field(default_factory=set)


class Gatherer:
    """Looks at what waits; what has waited for company long enough, or is enough, is to go."""

    def __init__(self, name: str, settings: OpenAIBatchSettings) -> None:
        self._name = name
        self._settings = settings
        self._windows = list(settings.tiers)
        self._since: dict[Bucket, float] = {}
        self.patience_seconds = self._shortest({})
        """Below how much time left nothing is gathered."""

    async def look(self, lane: Lane, routes: Map, *, now: datetime) -> list[Gathering]:
        """What to gather now."""
        settings = self._settings
        cells = [
            cell
            for cell in routes.cells
            if cell.kind in GATHERED and cell.service_class is not ServiceClass.INTERACTIVE
        ]
        firsts = await waiting(lane, cells, routes.teams)
        groups = list(dict.fromkeys(first.group for first in firsts))
        if not groups:
            self._since.clear()
            return []
        seen = await durations(lane, self._name, self._windows)
        self.patience_seconds = self._shortest(seen)
        found = await survey(lane, groups, rows=settings.max_lines)

        def offered(model: str, service_class: ServiceClass) -> list[Option]:
            hurried = routes.hurries_elsewhere(model, service_class)
            return self._options(seen, live_seconds=settings.live_seconds if hurried else None)

        # Only the Batch API has a limit of enqueued tokens.
        paused = await paused_models(
            lane, self._name, list(settings.windows), seconds=settings.poll_seconds
        )
        companies = sort(found, offered, now)
        ready = []
        for bucket in self._ready(companies, now.timestamp()):
            free = bucket.upstream not in paused and await self._has_room(lane, bucket)
            if free or self._is_background(bucket):
                ready.append(self._gathering(bucket, companies[bucket], now))
        return ready

    def _options(
        self, seen: Mapping[str, Sequence[float]], *, live_seconds: float | None
    ) -> list[Option]:
        settings = self._settings
        overhead = settings.gather_seconds + 2 * settings.poll_seconds
        return options(
            settings.tiers,
            seen,
            overhead_seconds=overhead,
            live_seconds=live_seconds,
            background=settings.responses_windows,
        )

    def _shortest(self, seen: Mapping[str, Sequence[float]]) -> float:
        return shortest_seconds(self._options(seen, live_seconds=None))

    def _ready(self, companies: Mapping[Bucket, Company], now: float) -> list[Bucket]:
        self._since = {bucket: self._since.get(bucket, now) for bucket in companies}
        return [
            bucket
            for bucket, company in companies.items()
            if sum(company.rows.values()) >= self._most_rows(bucket)
            or now - self._since[bucket] >= self._settings.gather_seconds
        ]

    def _is_background(self, bucket: Bucket) -> bool:
        return bucket.window in self._settings.responses_windows

    def _most_rows(self, bucket: Bucket) -> int:
        most = self._settings.max_lines
        return min(most, BACKGROUND_ROWS) if self._is_background(bucket) else most

    async def _has_room(self, lane: Lane, bucket: Bucket) -> bool:
        most = await token_limit(lane, self._name, self._settings, bucket.upstream)
        if most is None:
            return True
        taken = await enqueued_tokens(lane, self._name, bucket.upstream, but=NO_BATCH)
        return not taken or most - taken >= LEAST_ROOM * most

    def _gathering(self, bucket: Bucket, company: Company, now: datetime) -> Gathering:
        span = span_of(company.offered, bucket.window)
        low, high = span or (0.0, None)
        return Gathering(
            id=new_id(),
            backend=self._name,
            model=bucket.model,
            upstream=bucket.upstream,
            endpoint=bucket.endpoint,
            window=bucket.window,
            reason=company.choice.reason,
            takes=shares(company.rows, self._most_rows(bucket)),
            rows=self._settings.max_lines,
            batches=list(company.batches),
            earliest=now + timedelta(seconds=low),
            before=None if high is None else now + timedelta(seconds=high),
            deadline=company.deadline,
            verbatim=bucket.verbatim,
            background=self._is_background(bucket),
        )


def sort(
    found: Sequence[Waiters], offered: Callable[[str, ServiceClass], list[Option]], now: datetime
) -> dict[Bucket, Company]:
    """What goes together, by window; what only live calls answer in time is left out."""
    companies: dict[Bucket, Company] = {}
    cells = {waiters.group.cell for waiters in found}
    known = {kind: offered(*kind) for kind in {(cell.model, cell.service_class) for cell in cells}}
    # With the nearest deadline first, a company's first choice is that of its nearest deadline.
    far = datetime.max.replace(tzinfo=now.tzinfo)
    for waiters in sorted(found, key=lambda waiters: waiters.deadline or far):
        cell = waiters.group.cell
        left = None if waiters.deadline is None else (waiters.deadline - now).total_seconds()
        fit = fitting(known[cell.model, cell.service_class], translatable=waiters.translatable)
        choice = choose(fit, left)
        if choice.option.window is None:
            continue
        bucket = Bucket(
            cell.model, cell.upstream, waiters.endpoint, choice.option.window, waiters.verbatim
        )
        company = companies.setdefault(bucket, Company(choice, waiters.deadline, fit))
        company.rows[waiters.group] = company.rows.get(waiters.group, 0) + waiters.rows
        if waiters.batch_id is not None:
            company.batches.add(waiters.batch_id)
    return companies


def shares(rows: Mapping[Group, int], most: int) -> dict[Group, int]:
    """How many rows of each group go, ``most`` in all: the teams alike, each in its own order."""
    teams: dict[int, list[Group]] = defaultdict(list)
    for group in sorted(rows, key=lambda group: (group.cell.service_class, group.rank)):
        teams[group.team_id].append(group)
    takes: dict[Group, int] = {}
    left, waiting_teams = most, len(teams)
    for groups in sorted(teams.values(), key=lambda groups: sum(rows[group] for group in groups)):
        share = ceil(left / waiting_teams)
        waiting_teams -= 1
        for group in groups:
            take = min(rows[group], share)
            share -= take
            left -= take
            if take:
                takes[group] = take
    return takes
