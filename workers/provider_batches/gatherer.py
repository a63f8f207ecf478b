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
from db.provider_responses import count_open
from workers.map import Map
from workers.provider_batches.planner import (
    Choice,
    Option,
    band_of,
    choose,
    fitting,
    options,
    shortest_seconds,
    span_of,
    span_of_band,
)
from workers.provider_batches.token_limit import token_limit

GATHERED = (Kind.WHOLE, Kind.SHARE)
"""A leg that opens with time is of no use to a backend that takes its time."""
NO_BATCH = UUID(int=0)
BACKGROUND_ROWS = 2000
"""Of one provider batch, each a response by itself: the window's times are learned by batches."""
LEAST_ROOM = 0.1
"""Of a limit that all open provider batches share: for less than that, nothing is gathered."""


class Bucket(NamedTuple):
    """What goes together: one provider batch is of one model, endpoint and window.

    Rows that are ``verbatim`` have fewer windows to choose from, so that one fits them otherwise. A
    file is taken back as a whole when its first row gets late: no row with more than twice the time
    goes with it. None is no ``band``: responses are taken back one by one.
    """

    model: str
    upstream: str
    endpoint: int
    window: str
    verbatim: bool = False
    band: int | None = None


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
        self.groups: list[Group] = []
        """What waits, and is looked at."""
        self.hurried: list[Waiters] = []
        """What the legs behind would leave to this backend, though no window of its own fits."""

    async def look(self, lane: Lane, routes: Map, *, now: datetime) -> list[Gathering]:
        """What to gather now."""
        settings = self._settings
        cells = [
            cell
            for cell in routes.cells
            if cell.kind in GATHERED and cell.service_class is not ServiceClass.INTERACTIVE
        ]
        firsts = await waiting(lane, cells, routes.teams)
        self.groups = groups = list(dict.fromkeys(first.group for first in firsts))
        self.hurried = []
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
        companies, live = sort(found, offered, now)
        self.hurried = [waiters for waiters in live if self._is_hidden(waiters, now)]
        ready = []
        for bucket in self._ready(companies, now.timestamp()):
            if self._is_background(bucket):
                most = await self._most_responses(lane)
            elif bucket.upstream not in paused and await self._has_room(lane, bucket):
                most = settings.max_lines
            else:
                most = 0
            if most:
                company = companies[bucket]
                ready.append(self._gathering(bucket, company, now, most=most))
                if sum(company.rows.values()) <= most:
                    # All of it goes: what comes from now on waits for company of its own.
                    del self._since[bucket]
        return ready

    def _is_hidden(self, waiters: Waiters, now: datetime) -> bool:
        """Whether the legs behind do not see yet that only they are in time.

        Suspects they see whatever time is left.
        """
        if waiters.hurried or waiters.group.lost or waiters.deadline is None:
            return False
        return (waiters.deadline - now).total_seconds() >= self.patience_seconds

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
            if sum(company.rows.values()) >= self._enough(bucket)
            or now - self._since[bucket] >= self._settings.gather_seconds
        ]

    def _is_background(self, bucket: Bucket) -> bool:
        return bucket.window in self._settings.responses_windows

    def _enough(self, bucket: Bucket) -> int:
        most = self._settings.max_lines
        return min(most, BACKGROUND_ROWS) if self._is_background(bucket) else most

    async def _most_responses(self, lane: Lane) -> int:
        """How many rows may go as responses now."""
        most = self._settings.max_background_responses
        room = most - await count_open(lane, self._name)
        return min(room, self._settings.max_lines, BACKGROUND_ROWS) if _is_worth(room, most) else 0

    async def _has_room(self, lane: Lane, bucket: Bucket) -> bool:
        most = await token_limit(lane, self._name, self._settings, bucket.upstream)
        if most is None:
            return True
        taken = await enqueued_tokens(lane, self._name, bucket.upstream, but=NO_BATCH)
        return not taken or _is_worth(most - taken, most)

    def _gathering(
        self, bucket: Bucket, company: Company, now: datetime, *, most: int
    ) -> Gathering:
        low, high = span_of(company.offered, bucket.window) or (0.0, None)
        if bucket.band is not None:
            low, high = _overlap((low, high), span_of_band(bucket.band))
        return Gathering(
            id=new_id(),
            backend=self._name,
            model=bucket.model,
            upstream=bucket.upstream,
            endpoint=bucket.endpoint,
            window=bucket.window,
            reason=company.choice.reason,
            takes=shares(company.rows, most),
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
) -> tuple[dict[Bucket, Company], list[Waiters]]:
    """What goes together, by window; and what is left to live calls."""
    companies: dict[Bucket, Company] = {}
    live: list[Waiters] = []
    cells = {waiters.group.cell for waiters in found}
    known = {kind: offered(*kind) for kind in {(cell.model, cell.service_class) for cell in cells}}
    # With the nearest deadline first, a company's first choice is that of its nearest deadline.
    far = datetime.max.replace(tzinfo=now.tzinfo)
    for waiters in sorted(found, key=lambda waiters: waiters.deadline or far):
        cell = waiters.group.cell
        left = None if waiters.deadline is None else (waiters.deadline - now).total_seconds()
        fit = fitting(known[cell.model, cell.service_class], translatable=waiters.translatable)
        choice = choose(fit, left)
        option = choice.option
        if option.window is None:
            live.append(waiters)
            continue
        bucket = Bucket(
            cell.model,
            cell.upstream,
            waiters.endpoint,
            option.window,
            waiters.verbatim,
            None if option.background else band_of(left),
        )
        company = companies.setdefault(bucket, Company(choice, waiters.deadline, fit))
        company.rows[waiters.group] = company.rows.get(waiters.group, 0) + waiters.rows
        if waiters.batch_id is not None:
            company.batches.add(waiters.batch_id)
    return companies, live


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


def _is_worth(room: int, most: int) -> bool:
    return room > 0 and room >= LEAST_ROOM * most


def _overlap(
    one: tuple[float, float | None], other: tuple[float, float | None]
) -> tuple[float, float | None]:
    """Two spans' common part; None is no end."""
    ends = [end for _, end in (one, other) if end is not None]
    return max(one[0], other[0]), min(ends, default=None)
