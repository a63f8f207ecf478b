"""Provider batches for tests of the database: what is gathered, and one that is."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from carpool.ids import new_id
from carpool.routing import Cell, Kind
from carpool.states import ServiceClass
from db import provider_batches as steps
from db.claim import Group
from db.gathering import Gathering
from db.gathering import gather as gather_rows
from db.provider_batches import ProviderBatch
from db.routes import routing_version

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

BACKEND, MODEL, TEAM = "engine", "tiny", 1
CELLS = {
    service_class: Cell(
        model=MODEL, upstream="theirs", service_class=service_class, kind=Kind.WHOLE, teams=None
    )
    for service_class in ServiceClass
}
ME, OTHER = UUID(int=1), UUID(int=2)
LEASE_SECONDS = 150.0
BATCH = {"service_class": ServiceClass.BATCH}
FLEX = {"service_class": ServiceClass.FLEX}
WINDOW = "24h"


def group(service_class: ServiceClass = ServiceClass.BATCH, **changes: Any) -> Group:
    values: dict[str, Any] = {"cell": CELLS[service_class], "team_id": TEAM}
    return Group(**(values | changes))


def wanted(take: int = 100, **changes: Any) -> Gathering:
    """So many batch rows of the usual team, whatever their deadline, unless told otherwise."""
    values: dict[str, Any] = {
        "id": new_id(),
        "backend": BACKEND,
        "model": MODEL,
        "upstream": "theirs",
        "endpoint": 0,
        "window": WINDOW,
        "reason": "It is cheap.",
        "takes": {group(): take},
        "rows": 10_000,
        "batches": [],
        "earliest": datetime.now(UTC),
        "before": None,
        "deadline": None,
    }
    return Gathering(**(values | changes))


async def gather(run: "TestRun", gathering: Gathering, *, keeper: UUID = ME) -> int:
    return await gather_rows(
        run.lane,
        gathering,
        run=run.id,
        version=await routing_version(run.lane),
        keeper=keeper,
        lease_seconds=LEASE_SECONDS,
    )


async def gathered(bench: "Bench", number: int = 3, **columns: Any) -> ProviderBatch:
    """A provider batch of ours in GATHERED, of so many rows."""
    run = await bench.run()
    await bench.fill(number, **(BATCH | columns))
    gathering = wanted(number)
    assert await gather(run, gathering) == number
    found = await steps.find(run.lane, gathering.id)
    assert found is not None
    return found
