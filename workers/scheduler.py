"""The order of claims: pure code that is told what waits and says what to claim.

Interactive before flex before batch; within a class the teams in turn. Interactive and flex go by
age, batch by prefix from the run's own place in the key space (DESIGN.md, section 3); what a route
cuts by shares goes in a walk over the shares. Suspects, lost with their engines at least twice, run
by themselves: at most 8 together, then each alone. What a route opens as deadlines near goes by
deadline, or, of batches, by age.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict
from uuid import UUID

from carpool.ids import id_at, line_bounds
from carpool.notices import Waiting
from carpool.routing import Cell, Kind
from db.claim import (
    LAST_ID,
    LOWEST_PREFIX,
    NO_ID,
    Claim,
    First,
    Group,
    Pick,
    key_of,
)

SUSPECT_GROUP = 8
ALONE_AFTER_LOSSES = 3


@dataclass(slots=True)
class _Cursor:
    """How far a run has come in a group: claims begin behind (key, id).

    ``head`` is where the group began at the last look; a walk goes on there when it has come to the
    end, once (``wrapped``).
    """

    key: int
    id: UUID
    head: tuple[int, UUID] = (LOWEST_PREFIX, NO_ID)
    wrapped: bool = False


class Scheduler:
    """What one run knows of the groups that wait, and how far it has come in each."""

    def __init__(self, origin_key: int) -> None:
        """``origin_key`` is where this run begins in the space of prefix keys."""
        self._origin_key = origin_key
        self._cells: dict[tuple[str, int], list[Cell]] = {}
        self._known: set[Cell] = set()
        self._teams: dict[int, str] = {}
        self._waiting: dict[Group, None] = {}
        self._cursors: dict[Group, _Cursor] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is known to wait."""
        return not self._waiting

    def route(self, cells: Iterable[Cell], teams: dict[int, str]) -> None:
        """Learn what may be claimed now; what is known to wait must be looked for anew.

        ``teams`` are the names of those teams that the cells name.
        """
        self._cells = {}
        self._known = set()
        for cell in cells:
            self._known.add(cell)
            self._cells.setdefault((cell.model, cell.service_class), []).append(cell)
        self._teams = teams
        self._waiting.clear()
        self._cursors.clear()

    def note(self, bell: Waiting, *, settled: UUID) -> None:
        """Learn that new rows wait; rows older than ``settled`` are left to `look`."""
        for cell in self._cells.get((bell.model, bell.service_class), ()):
            if not _rings(cell, bell.share) or not cell.takes(self._teams.get(bell.team_id, "")):
                continue
            group = Group(cell=cell, team_id=bell.team_id, rank=bell.rank)
            self._waiting.setdefault(group)
            if group not in self._cursors:
                self._cursors[group] = self._begin(group, settled)

    def look(self, firsts: Iterable[First]) -> None:
        """Learn from the queue itself what waits, and where each group begins.

        Rows that were returned to the queue lie behind the cursor, which goes back to them.
        """
        for first in firsts:
            before = UUID(int=first.id.int - 1)
            group = first.group
            cursor = self._cursors.get(group)
            if cursor is None:
                cursor = self._cursors[group] = self._begin(group, before)
                if group.by_deadline:
                    cursor.key = first.key
            if group.by_prefix:
                cursor.head = (first.key, before)
                cursor.key, cursor.id = max((cursor.key, cursor.id), cursor.head)
            elif group.by_deadline:
                cursor.key, cursor.id = min((cursor.key, cursor.id), (first.key, before))
            elif not group.walked:
                cursor.id = min(cursor.id, before)
            self._waiting.setdefault(group)

    def plan(
        self, *, free: int, in_flight: int, now: datetime, shut: Collection[str] = ()
    ) -> list[Pick]:
        """What to claim next, at most ``free`` rows, all claimed alike, of no upstream model that
        is ``shut``.

        A picked group is known to wait again only when `settle`, `note` or `look` says so: rows
        that come while its claim is under way are announced, and must not be forgotten with it.
        """
        waiting = list(self._waiting)
        if shut:
            waiting = [group for group in waiting if group.cell.upstream not in shut]
        if free <= 0 or not waiting:
            return []
        suspects = [group for group in waiting if group.lost]
        if suspects:
            if in_flight:
                return []
            group = min(suspects, key=lambda group: group.lost)
            del self._waiting[group]
            together = 1 if group.lost >= ALONE_AFTER_LOSSES else SUSPECT_GROUP
            return [Pick(group=group, take=min(free, together), **_bounds(group, now))]
        groups = _first(waiting)
        share, rest = divmod(free, len(groups))
        picks = []
        for place, group in enumerate(groups):
            take = share + (1 if place < rest else 0)
            if take:
                del self._waiting[group]
                picks.append(self._pick(group, take, now))
        return picks

    def cut(self, picks: Sequence[Pick], granted: Mapping[str, int]) -> list[Pick]:
        """The picks, cut to how many rows of each upstream model were granted, each its part.

        A group of which none was goes on waiting, before all others: it still has its turn.
        """
        left = dict(granted)
        sharing = Counter(pick.group.cell.upstream for pick in picks)
        kept, spared = [], []
        for pick in picks:
            upstream = pick.group.cell.upstream
            take = min(pick.take, -(-left[upstream] // sharing[upstream]))
            left[upstream] -= take
            sharing[upstream] -= 1
            if take:
                kept.append(replace(pick, take=take))
            elif pick.group in self._cursors:  # else the routes changed meanwhile
                spared.append(pick.group)
        self._waiting = dict.fromkeys(spared) | self._waiting
        return kept

    def _pick(self, group: Group, take: int, now: datetime) -> Pick:
        cursor = self._cursors[group]
        place = (cursor.key, cursor.id)
        if group.by_deadline:
            # What is past its deadline is left to the sweep.
            place = max(place, (key_of(now), NO_ID))
        return Pick(
            group=group, take=take, after_key=place[0], after=place[1], **_bounds(group, now)
        )

    def settle(self, picks: Sequence[Pick], claims: Sequence[Claim], *, settled: UUID) -> None:
        """Learn what the picks brought.

        No cursor passes ``settled``, an id below which no transaction is still to commit. A group
        that gave fewer than asked is exhausted; one that gave all goes to the end of the turn, last
        those that were given one more than the others.
        """
        for pick in sorted(picks, key=lambda pick: pick.take):
            group = pick.group
            if group.lost:
                if claims and group.cell in self._known:
                    self._waiting.setdefault(group)
                continue
            mine = [claim for claim in claims if group.holds(claim)]
            full = len(mine) >= pick.take
            cursor = self._cursors.get(group)
            if cursor is None:
                continue  # the routes changed meanwhile
            more = _walk(cursor, group, mine, full) if group.walked else full
            if mine and group.by_deadline:
                # One that comes late may lie before it in any case, and is for `look` to find.
                cursor.key, cursor.id = max(_due(claim) for claim in mine)
            elif mine and not group.walked:
                cursor.id = min(max(claim.id for claim in mine), settled)
            if more:
                self._waiting.setdefault(group)

    def _begin(self, group: Group, before: UUID) -> _Cursor:
        if group.cell.kind is Kind.SHARE:
            low, high = group.cell.shares
            head = (low, NO_ID)
            return _Cursor(low + self._origin_key % (high - low), NO_ID, head=head)
        if group.by_prefix:
            return _Cursor(self._origin_key, NO_ID)
        return _Cursor(LOWEST_PREFIX, before)


def takes(picks: Iterable[Pick]) -> dict[str, int]:
    """How many rows the picks take of each upstream model."""
    found: dict[str, int] = {}
    for pick in picks:
        upstream = pick.group.cell.upstream
        found[upstream] = found.get(upstream, 0) + pick.take
    return found


def _first(waiting: Sequence[Group]) -> list[Group]:
    """The groups whose turn it is: of the first class, of one kind, one of each team.

    Of a team's groups alike the first rank goes first.
    """
    first = min(group.cell.service_class for group in waiting)
    groups = [group for group in waiting if group.cell.service_class == first]
    kind = groups[0].cell.kind, groups[0].cell.of_shares
    turns: dict[tuple[str, int], Group] = {}
    for group in groups:
        if (group.cell.kind, group.cell.of_shares) != kind:
            continue
        team = (group.cell.model, group.team_id)
        if team not in turns or group.rank < turns[team].rank:
            turns[team] = group
    chosen = set(turns.values())
    return [group for group in groups if group in chosen]


def _walk(cursor: _Cursor, group: Group, claims: Sequence[Claim], full: bool) -> bool:
    """Move a cursor over the keys, at the end once to the head; whether to go on."""
    if full:
        key, identifier = max(
            ((claim.prefix_key if group.by_prefix else claim.share or 0), claim.id)
            for claim in claims
        )
        cursor.key, cursor.id, cursor.wrapped = key, identifier, False
        return True
    going_on = not cursor.wrapped
    cursor.key, cursor.id = cursor.head
    cursor.wrapped = going_on
    return going_on


def _due(claim: Claim) -> tuple[int, UUID]:
    assert claim.deadline is not None
    return key_of(claim.deadline), claim.id


class _Bounds(TypedDict, total=False):
    before: UUID
    due_before: datetime


def _bounds(group: Group, now: datetime) -> _Bounds:
    """The id, or the deadline, before which a group's rows may be claimed."""
    span = timedelta(seconds=group.cell.seconds)
    match group.cell.kind:
        case Kind.AFTER:
            return {"before": id_at(now - span)}
        case Kind.DUE:
            return {"due_before": now + span}
    return {"before": LAST_ID if group.batch is None else line_bounds(group.batch)[1]}


def _rings(cell: Cell, share: int | None) -> bool:
    if share is None:
        return cell.kind is Kind.WHOLE
    low, high = cell.shares
    return cell.kind is Kind.SHARE and low <= share < high
