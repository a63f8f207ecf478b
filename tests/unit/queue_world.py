"""A queue without a database, for tests of the scheduler: it answers as the SQL does."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from carpool.routing import Cell, Kind
from carpool.states import ServiceClass
from db.claim import Claim, First, Group, Pick
from workers.scheduler import ALONE_AFTER_LOSSES, SUSPECT_GROUP, Scheduler, takes

LATE_SECONDS = 2.0
"""How long after an id is made its row may become visible."""
START_SECONDS = 1000.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODELS, TEAMS = ("m", "n"), (1, 2, 3)
CELLS = {
    (model, service_class): Cell(
        model=model, upstream=model, service_class=service_class, kind=Kind.WHOLE, teams=None
    )
    for model in MODELS
    for service_class in ServiceClass
}


def identifier(seconds: float, serial: int) -> UUID:
    return UUID(int=(int(seconds * 1000) << 80) | (0x7 << 76) | (0b10 << 62) | serial)


@dataclass(slots=True)
class Row:
    """A row of the queue, as far as the order of claims goes."""

    id: UUID
    model: str
    service_class: ServiceClass
    team_id: int
    prefix_key: int
    visible_at: float
    lost: int = 0
    held: bool = False


class World:
    """A queue that answers as the SQL does, a clock, and a scheduler that is watched."""

    def __init__(self, origin_key: int = 0) -> None:
        self.now = START_SECONDS
        self.rows: dict[UUID, Row] = {}
        self.claimed: list[Row] = []
        self.scheduler = Scheduler(origin_key)
        self.scheduler.route(CELLS.values(), {})

    def arrive(
        self,
        model: str = "m",
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        team: int = 1,
        key: int = 0,
        late: float = 0,
    ) -> Row:
        found = identifier(self.now, len(self.rows) + len(self.claimed) * 1000)
        row = Row(found, model, service_class, team, key, self.now + late)
        self.rows[row.id] = row
        return row

    def look(self) -> None:
        """Tell the scheduler all that waits, suspects by the fewest losses of each model."""
        waiting = sorted(self._waiting(), key=lambda row: (row.prefix_key, row.id))
        firsts: dict[Group, First] = {}
        for row in waiting:
            group = Group(cell=CELLS[row.model, row.service_class], team_id=row.team_id)
            if row.lost < 2 and (
                group not in firsts
                or (row.service_class is not ServiceClass.BATCH and row.id < firsts[group].id)
            ):
                firsts[group] = First(group, row.prefix_key, row.id)
        for model in MODELS:
            lost = [row for row in waiting if row.lost >= 2 and row.model == model]
            if lost:
                least = min(lost, key=lambda row: row.lost)
                group = suspects(model, least.lost)
                firsts[group] = First(group, 0, least.id)
        self.scheduler.look(firsts.values())

    def turn(
        self, free: int, *, shut: Collection[str] = (), budgets: dict[str, int] | None = None
    ) -> list[Row]:
        """One plan, its claim and what is learned of it; ``budgets`` are taken from."""
        in_flight = sum(row.held for row in self.rows.values())
        picks = self.scheduler.plan(free=free, in_flight=in_flight, now=NOW, shut=shut)
        assert all(pick.take > 0 for pick in picks)
        assert sum(pick.take for pick in picks) <= max(free, 0)
        assert len({pick.group for pick in picks}) == len(picks)
        if any(pick.group.lost for pick in picks):
            self._check_suspects(picks, in_flight)
        assert len({pick.group.cell.service_class for pick in picks}) <= 1
        assert not takes(picks).keys() & set(shut)
        if budgets is not None:
            picks = self._granted(picks, budgets)
        rows = [row for pick in picks for row in self.claim(pick)]
        claims = [claim_of(row) for row in rows]
        self.scheduler.settle(picks, claims, settled=identifier(self.now - LATE_SECONDS, 0))
        self.claimed += rows
        return rows

    def turns(self, free: int) -> list[Row]:
        """Turn until nothing more comes, each claim finished before the next."""
        found: list[Row] = []
        while True:
            rows = self.turn(free)
            found += rows
            self.finish(rows)
            if not rows and self.scheduler.idle:
                return found

    def finish(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows.pop(row.id)

    def held(self) -> list[Row]:
        return [row for row in self.rows.values() if row.held]

    def _waiting(self) -> list[Row]:
        return [r for r in self.rows.values() if not r.held and r.visible_at <= self.now]

    def claim(self, pick: Pick) -> Sequence[Row]:
        group = pick.group
        cell = group.cell
        if group.lost:
            rows = [r for r in self._waiting() if r.model == cell.model and r.lost == group.lost]
        else:
            rows = [
                row
                for row in self._waiting()
                if row.lost < 2
                and (row.model, row.service_class, row.team_id)
                == (cell.model, cell.service_class, group.team_id)
            ]
        if group.lost or not group.by_prefix:
            rows = sorted((r for r in rows if r.id > pick.after), key=lambda r: r.id)
        else:
            place = (pick.after_key, pick.after)
            rows = sorted(
                (r for r in rows if (r.prefix_key, r.id) > place),
                key=lambda r: (r.prefix_key, r.id),
            )
        for row in rows[: pick.take]:
            row.held = True
        return rows[: pick.take]

    def _granted(self, picks: Sequence[Pick], budgets: dict[str, int]) -> list[Pick]:
        """The picks cut to the budgets, of which each model takes all that it wants and gets."""
        wanted = takes(picks)
        granted = {model: min(number, budgets[model]) for model, number in wanted.items()}
        cut = self.scheduler.cut(picks, granted)
        assert takes(cut) == {model: number for model, number in granted.items() if number}
        for model, number in granted.items():
            budgets[model] -= number
        return cut

    def _check_suspects(self, picks: Sequence[Pick], in_flight: int) -> None:
        assert in_flight == 0
        [pick] = picks
        assert pick.take <= SUSPECT_GROUP
        assert pick.take == 1 or pick.group.lost < ALONE_AFTER_LOSSES


def suspects(model: str, lost: int) -> Group:
    return Group(cell=CELLS[model, ServiceClass.INTERACTIVE], team_id=0, lost=lost)


def claim_of(row: Row, *, deadline: datetime | None = None) -> Claim:
    return Claim(
        id=row.id,
        epoch=1,
        team_id=row.team_id,
        service_class=row.service_class,
        endpoint=0,
        model=row.model,
        streamed=False,
        attempts=0,
        lost=row.lost,
        channel=None,
        prefix_key=row.prefix_key,
        share=None,
        rank=0,
        batch_id=None,
        deadline=deadline,
        stopped=False,
        body=b"{}",
        upstream=row.model,
    )
