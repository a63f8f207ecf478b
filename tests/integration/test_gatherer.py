"""What waits for a provider's Batch API is gathered, unless others would take it in time."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carpool.ids import new_id
from carpool.routing import Leg, Route
from carpool.settings import OpenAIBatchSettings
from carpool.states import ServiceClass
from db.gathering import gather
from db.provider_batches import find
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
OFFERED = {"8h": 0.6, "2h": 0.7}
ENQUEUED = """
insert into provider_batches (id, backend, model, upstream, endpoint, completion_window, reason,
    lines, bytes, tokens)
values ($1, $2, $3, $3, 0, '24h', '', 1, 1, $4)
"""


def patient(**changes: Any) -> OpenAIBatchSettings:
    """Of a backend that waits for no company, and has the window of a day alone."""
    values = {
        "kind": "openai_batch",
        "api_key": "sk-any",
        "gather_seconds": 0.001,
        "background_windows": {},
    }
    return OpenAIBatchSettings.model_validate(values | changes)


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
    gatherer, routes = Gatherer(PATIENT, patient()), Map(PATIENT)
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    found = await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    assert sum(sum(one.takes.values()) for one in found) == gathered


async def test_rows_that_have_no_equal_as_responses_are_left_to_the_other_ways(
    bench: "Bench",
) -> None:
    """Due in 10 hours: chats by the 8h window; those found verbatim, and embeddings, by none."""
    live = Route(legs=(LEG, Leg(backend=OWN)))
    await set_route(bench.database, MODEL, live, actor="test", backends={PATIENT, OWN})
    run = await bench.run(PATIENT)
    await bench.run(OWN)
    batch = new_id()
    await bench.sql(HURRIED, batch)
    chats = await bench.fill(3, service_class=ServiceClass.BATCH)
    [verbatim] = await bench.fill(1, service_class=ServiceClass.BATCH)
    await bench.fill(1, service_class=ServiceClass.BATCH, endpoint=2)
    await bench.sql("update queue set batch_id = $1, verbatim = id = $2", batch, verbatim)
    gatherer, routes = Gatherer(PATIENT, patient(background_windows=OFFERED)), Map(PATIENT)
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    [wanted] = await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    lines = await gather(
        run.lane, wanted, run=run.id, version=routes.version, keeper=run.id, lease_seconds=15.0
    )
    assert lines == 3
    made = await find(run.lane, wanted.id)
    assert made is not None
    assert (made.window, made.background) == ("8h", True)
    taken = await bench.sql("select id from queue where owner = $1", wanted.id)
    assert {row["id"] for row in taken} == set(chats)


async def test_verbatim_rows_go_late_rather_than_never(bench: "Bench") -> None:
    """Where nobody answers live: by the window of a day, apart from the rows that it is no choice
    for."""
    await set_route(bench.database, MODEL, Route(legs=(LEG,)), actor="test", backends={PATIENT})
    run = await bench.run(PATIENT)
    soon = datetime.now(UTC) + timedelta(hours=10)
    [verbatim] = await bench.fill(1, service_class=ServiceClass.FLEX, deadline=soon)
    await bench.sql("update queue set verbatim = true")
    [chat] = await bench.fill(1, service_class=ServiceClass.FLEX, deadline=soon)
    gatherer, routes = Gatherer(PATIENT, patient(background_windows=OFFERED)), Map(PATIENT)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    for wanted in await gatherer.look(run.lane, routes, now=datetime.now(UTC)):
        await gather(
            run.lane, wanted, run=run.id, version=routes.version, keeper=run.id, lease_seconds=15.0
        )
    ways = await bench.sql(
        "select q.id, p.completion_window, p.background from queue q join provider_batches p on "
        "p.id = q.owner"
    )
    assert {tuple(row) for row in ways} == {(verbatim, "24h", False), (chat, "8h", True)}


async def test_suspects_are_gathered_where_nobody_else_would_take_them(bench: "Bench") -> None:
    """Rows that may have killed engines of the team's are harmless to a provider."""
    run = await bench.run(PATIENT)
    await set_route(
        bench.database, MODEL, Route(legs=(LEG,)), actor="test", backends={PATIENT, OWN}
    )
    await bench.fill(3, service_class=ServiceClass.BATCH)
    await bench.fill(2, service_class=ServiceClass.FLEX)
    await bench.sql("update queue set lost = 2, state = 3")
    gatherer, routes = Gatherer(PATIENT, patient()), Map(PATIENT)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    [wanted] = await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    lines = await gather(
        run.lane, wanted, run=run.id, version=routes.version, keeper=run.id, lease_seconds=15.0
    )
    assert lines == 5


@pytest.mark.parametrize(("enqueued", "gathered"), [(0, 3), (90, 3), (91, 0), (100, 0)])
async def test_nothing_is_gathered_for_less_than_a_tenth_of_the_tokens(
    bench: "Bench", enqueued: int, gathered: int
) -> None:
    run = await bench.run(PATIENT)
    await set_route(bench.database, MODEL, Route(legs=(LEG,)), actor="test", backends={PATIENT})
    await bench.sql(ENQUEUED, new_id(), PATIENT, MODEL, enqueued)
    await bench.fill(3, service_class=ServiceClass.BATCH)
    gatherer, routes = Gatherer(PATIENT, patient(max_enqueued_tokens=100)), Map(PATIENT)
    await routes.read(run.lane)
    await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    found = await gatherer.look(run.lane, routes, now=datetime.now(UTC))
    assert sum(sum(one.takes.values()) for one in found) == gathered
