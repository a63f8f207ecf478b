"""What waits for a provider's Batch API is gathered, unless others would take it in time."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from carpool.ids import new_id
from carpool.routing import Leg, Route
from carpool.settings import OpenAIBatchSettings
from carpool.states import ServiceClass
from db.routes import set_route
from db.runs import set_patience
from workers.map import Map
from workers.provider_batches.gatherer import Gatherer

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

MODEL, PATIENT, OWN = "tiny", "patient", "engine"
LEG = Leg(backend=PATIENT, classes=("flex", "batch"))
HURRIED = """
insert into batches (id, team_id, key_id, endpoint, completion_window, input_file_id, fingerprint,
    status, expires_at)
values ($1, 1, $1, 0, '24h', 'file', $1, 1, now() + interval '10 hours')
"""


@pytest.mark.parametrize(
    ("other", "patience", "gathered"),
    [
        (Leg(backend=OWN), None, 0),
        (Leg(backend=OWN, left_seconds=43_200), None, 0),
        (Leg(backend=OWN), 43_200.0, 3),
        (Leg(backend=OWN, classes=("interactive",)), None, 3),
        (Leg(backend=OWN, teams=("another",)), None, 3),
        (Leg(backend=OWN, max_price=0), None, 3),
    ],
)
async def test_what_is_late_for_all_windows_is_left_to_those_who_take_it(
    bench: "Bench", other: Leg, patience: float | None, gathered: int
) -> None:
    """Where nobody would, a late window is better than none."""
    route = Route(legs=(LEG, other))
    await set_route(bench.database, MODEL, route, actor="test", backends={PATIENT, OWN})
    run = await bench.run(PATIENT)
    await bench.sql(
        "update runs set patience_seconds = $1 where id = $2", patience, (await bench.run(OWN)).id
    )
    batch = new_id()
    await bench.sql(HURRIED, batch)
    await bench.fill(3, service_class=ServiceClass.BATCH)
    await bench.sql("update queue set batch_id = $1", batch)
    settings = OpenAIBatchSettings.model_validate(
        {"kind": "openai_batch", "api_key": "sk-any", "gather_seconds": 0.001}
    )
    gatherer, routes = Gatherer(PATIENT, settings), Map(PATIENT)
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    found = await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    assert sum(sum(one.takes.values()) for one in found) == gathered
