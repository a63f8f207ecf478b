"""The order of claims: pure code that is told what waits and says what to claim.

Interactive before flex before batch; within a class the teams in turn. Interactive and flex go by
age, batch by prefix from the run's own place in the key space (DESIGN.md, section 3). Suspects,
lost with their engines at least twice, run by themselves: at most 8 together, then each alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from carpool.states import ServiceClass
from db.claim import LOWEST_PREFIX, NO_ID, Claim, First, Group, Pick

SUSPECT_GROUP = 8
ALONE_AFTER_LOSSES = 3


@dataclass(slots=True)
class _Cursor:
    """How far a run has come in a group: claims begin behind (key, id).

    ``head`` is where the group began at the last look; a walk by prefix goes on there when it has
    come to the end, once (``wrapped``).
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
        self._waiting: dict[Group, None] = {}
        self._cursors: dict[Group, _Cursor] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is known to wait."""
        return not self._waiting

    def note(self, group: Group, *, settled: UUID) -> None:
        """Learn that new rows of a group wait; rows older than ``settled`` are left to `look`."""
        self._waiting.setdefault(group)
        if group not in self._cursors:
            self._cursors[group] = self._begin(group, settled)

    def look(self, firsts: Iterable[First]) -> None:
        """Learn from the queue itself what waits, and where each group begins.

        Rows that were returned to the queue lie behind the cursor, which goes back to them.
        """
        for first in firsts:
            before = UUID(int=first.id.int - 1)
            cursor = self._cursors.get(first.group)
            if cursor is None:
                cursor = self._cursors[first.group] = self._begin(first.group, before)
            cursor.head = (first.prefix_key, before)
            if _by_prefix(first.group):
                cursor.key, cursor.id = max((cursor.key, cursor.id), cursor.head)
            else:
                cursor.id = min(cursor.id, before)
            self._waiting.setdefault(first.group)

    def plan(self, *, free: int, in_flight: int) -> list[Pick]:
        """What to claim next, at most ``free`` rows, all of one class.

        A picked group is known to wait again only when `settle`, `note` or `look` says so: rows
        that come while its claim is under way are announced, and must not be forgotten with it.
        """
        if free <= 0 or not self._waiting:
            return []
        suspects = [group for group in self._waiting if group.lost]
        if suspects:
            if in_flight:
                return []
            group = min(suspects, key=lambda group: group.lost)
            del self._waiting[group]
            together = 1 if group.lost >= ALONE_AFTER_LOSSES else SUSPECT_GROUP
            return [Pick(group=group, take=min(free, together))]
        groups = self._first()
        share, rest = divmod(free, len(groups))
        picks = []
        for place, group in enumerate(groups):
            take = share + (1 if place < rest else 0)
            if take:
                del self._waiting[group]
                cursor = self._cursors[group]
                picks.append(Pick(group=group, take=take, after=cursor.id, after_key=cursor.key))
        return picks

    def _first(self) -> list[Group]:
        """The groups whose turn it is: of the first class, and of each team the first rank."""
        first = min(group.service_class for group in self._waiting)
        groups = [group for group in self._waiting if group.service_class == first]
        ranks: dict[tuple[str, int], int] = {}
        for group in groups:
            team = (group.model, group.team_id)
            ranks[team] = min(group.rank, ranks.get(team, group.rank))
        return [group for group in groups if group.rank == ranks[group.model, group.team_id]]

    def settle(self, picks: Sequence[Pick], claims: Sequence[Claim], *, settled: UUID) -> None:
        """Learn what the picks brought.

        No cursor passes ``settled``, an id below which no transaction is still to commit. A group
        that gave fewer than asked is exhausted; one that gave all goes to the end of the turn, last
        those that were given one more than the others.
        """
        for pick in sorted(picks, key=lambda pick: pick.take):
            group = pick.group
            if group.lost:
                if claims:
                    self._waiting.setdefault(group)
                continue
            mine = [
                claim
                for claim in claims
                if claim.model == group.model
                and claim.team_id == group.team_id
                and claim.service_class == group.service_class
                and claim.rank == group.rank
            ]
            full = len(mine) >= pick.take
            cursor = self._cursors[group]
            more = _walk(cursor, mine, full) if _by_prefix(group) else full
            if mine and not _by_prefix(group):
                cursor.id = min(max(claim.id for claim in mine), settled)
            if more:
                self._waiting.setdefault(group)

    def _begin(self, group: Group, before: UUID) -> _Cursor:
        if _by_prefix(group):
            return _Cursor(self._origin_key, NO_ID)
        return _Cursor(LOWEST_PREFIX, before)


def _walk(cursor: _Cursor, claims: Sequence[Claim], full: bool) -> bool:
    """Move a cursor over the prefix keys, at the end once to the head; whether to go on."""
    if full:
        last = max(claims, key=lambda claim: (claim.prefix_key, claim.id))
        cursor.key, cursor.id, cursor.wrapped = last.prefix_key, last.id, False
        return True
    going_on = not cursor.wrapped
    cursor.key, cursor.id = cursor.head
    cursor.wrapped = going_on
    return going_on


def _by_prefix(group: Group) -> bool:
    return group.service_class is ServiceClass.BATCH
