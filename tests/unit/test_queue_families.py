"""Figures of the whole system say zero where so it is, and call no fall a growth."""

from api.queue_families import SAVED, of_standing
from carpool.prices import Ledger
from db.figures import Ended, Standing

NOTHING = Standing(
    served=[],
    runs=[],
    processes=[("api", False, 2), ("worker", True, 1)],
    late_batches=0,
    batch_lines=0,
    batch_expiry=None,
    pauses=[],
    partition_days=None,
    ended=[],
)


def test_processes_of_a_kind_that_has_none_are_zero() -> None:
    """A series that merely ended would be shown with its last value, and alarm nobody."""
    [processes] = [one for one in of_standing(NOTHING, []) if one.name == "carpool_processes"]
    assert {tuple(s.labels.values()): s.value for s in processes.samples} == {
        ("api", "live"): 2,
        ("api", "paused"): 0,
        ("worker", "live"): 0,
        ("worker", "paused"): 1,
        ("jobs", "live"): 0,
        ("jobs", "paused"): 0,
    }


def test_savings_may_fall() -> None:
    """Where the own backend costs more than the list price; a counter that falls counts anew."""
    past = [Ended("m", completed=1, ledger=Ledger(paid=5 * 10**9, saved_own=-2 * 10**9))]
    [saved] = [one for one in of_standing(NOTHING, past) if one.name == SAVED.name]
    assert saved.type == "gauge"
    assert [s.value for s in saved.samples if s.labels["means"] == "own"] == [-2.0]
