"""Identical requests in the queue, for the tests of leaders and followers."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from carpool.prices import Ledger
from carpool.states import QueueState

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

TWIN = UUID(int=77)
STORED = """
select id, outcome, paid, saved_shared, saved_own, prompt_tokens from results order by id
"""


async def come(bench: "Bench", number: int = 1, **columns: Any) -> list[UUID]:
    """Identical requests, all in one group."""
    return await bench.fill(number, **({"fingerprint": TWIN, "shareable": True} | columns))


async def states(bench: "Bench") -> list[tuple[UUID, QueueState, UUID | None]]:
    rows = await bench.sql("select id, state, leader from queue order by id")
    return [(row["id"], QueueState(row["state"]), row["leader"]) for row in rows]


async def answered(run: "TestRun", claims: Any, **columns: Any) -> Any:
    from tests.integration.db_fixtures import result

    ledger = Ledger(paid=10, saved_own=5)
    found = [result(c, **({"ledger": ledger, "prompt_tokens": 3} | columns)) for c in claims]
    return await run.finisher.finish(run.lane, found, False)
