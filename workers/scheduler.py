"""The order of claims: pure code that is told what waits and says what to claim.

Interactive before flex before batch; within a class the teams in turn. Interactive and flex go by
age, batch by prefix from the run's own place in the key space (DESIGN.md, section 3). Suspects,
lost with their engines at least twice, run by themselves: at most 8 together, then each alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from carpool.states import ServiceClass
from db.claim import LOWEST_PREFIX, NO_ID, Claim, Group, Pick

SUSPECT_GROUP = 8
ALONE_AFTER_LOSSES = 3
REWIND_SECONDS = 10.0


@dataclass(slots=True)
class _Cursor:
    key: int
    id: UUID
    rewound_at: float
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

    def note(self, groups: Iterable[Group]) -> None:
        """Learn that new rows of groups wait."""
        for group in groups:
            self._waiting.setdefault(group)

    def look(self, groups: Iterable[Group]) -> None:
        """Learn from the queue itself that groups wait.

        Where a group was taken for exhausted, its rows may lie behind the cursor: they were
        returned to the queue. It begins at the head again.
        """
        for group in groups:
            cursor = self._cursors.get(group)
            if group not in self._waiting and cursor is not None and not _by_prefix(group):
                cursor.id = NO_ID
            self._waiting.setdefault(group)

    def plan(self, *, free: int, in_flight: int, now: float) -> list[Pick]:
        """What to claim next, at most ``free`` rows, all of one class; ``now`` in seconds.

        A picked group is known to wait again only when `settle` or `note` says so: rows that come
        while its claim is under way are announced, and must not be forgotten with it.
        """
        if free <= 0 or not self._waiting:
            return []
        suspects = [group for group in self._waiting if group.lost]
        if suspects:
            if in_flight:
                return []
            group = min(suspects, key=lambda g: g.lost)
            del self._waiting[group]
            together = 1 if group.lost >= ALONE_AFTER_LOSSES else SUSPECT_GROUP
            return [Pick(group=group, take=min(free, together))]
        first = min(group.service_class for group in self._waiting)
        groups = [group for group in self._waiting if group.service_class == first]
        share, rest = divmod(free, len(groups))
        picks = []
        for place, group in enumerate(groups):
            take = share + (1 if place < rest else 0)
            if take:
                del self._waiting[group]
                cursor = self._cursor(group, now)
                picks.append(Pick(group=group, take=take, after=cursor.id, after_key=cursor.key))
        return picks

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
            ]
            if self._advance(self._cursors[group], pick, mine, settled):
                self._waiting.setdefault(group)

    def _advance(self, cursor: _Cursor, pick: Pick, claims: Sequence[Claim], settled: UUID) -> bool:
        """Move a cursor behind its claims; whether the group may hold more."""
        full = len(claims) >= pick.take
        if not _by_prefix(pick.group):
            if claims:
                cursor.id = min(max(claim.id for claim in claims), settled)
            return full
        if full:
            last = max(claims, key=lambda claim: (claim.prefix_key, claim.id))
            cursor.key, cursor.id, cursor.wrapped = last.prefix_key, last.id, False
            return True
        if cursor.wrapped:
            return False
        cursor.key, cursor.id, cursor.wrapped = LOWEST_PREFIX, NO_ID, True
        return True

    def _cursor(self, group: Group, now: float) -> _Cursor:
        cursor = self._cursors.get(group)
        if cursor is None:
            key = self._origin_key if _by_prefix(group) else LOWEST_PREFIX
            cursor = self._cursors[group] = _Cursor(key, NO_ID, now)
        elif not _by_prefix(group) and now - cursor.rewound_at > REWIND_SECONDS:
            # Of a group that is never exhausted, returned rows lie behind the cursor too.
            cursor.id, cursor.rewound_at = NO_ID, now
        return cursor


def _by_prefix(group: Group) -> bool:
    return group.service_class is ServiceClass.BATCH
