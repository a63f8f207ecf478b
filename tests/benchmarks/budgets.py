"""The budgets of DESIGN.md, section 6, for the rows that are measured here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """One row: what is measured, in which unit, and both columns."""

    what: str
    unit: str
    first: float
    then: float | None
    """None where it hangs on a yardstick: row 7's is twice the time among 10,000 rows."""


BUDGETS = {
    1: Budget(what="stored chat completions, concurrency 256", unit="/s", first=3500, then=6000),
    2: Budget(what="median latency, concurrency 1", unit="ms", first=4, then=2.5),
    3: Budget(what="added time to first token, median", unit="ms", first=4, then=2.5),
    4: Budget(what="streams of 9 chunks, concurrency 32", unit="/s", first=800, then=2000),
    5: Budget(
        what="50,000-line batch, upload to output file", unit="lines/s", first=6000, then=12_000
    ),
    6: Budget(what="memory growth of each process over it", unit="MB", first=150, then=80),
    7: Budget(what="claim of 256", unit="ms", first=10, then=None),
    9: Budget(what="idle CPU of the whole stack", unit="%", first=3, then=1),
}
SERVED_ROWS = (1, 2, 3, 4)
ADDED_ROW = 3
BATCH_ROWS = (5, 6)
CLAIM_ROW = 7
IDLE_ROW = 9
