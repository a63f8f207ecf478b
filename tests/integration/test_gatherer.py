"""What waits for a provider's Batch API is gathered, unless others would take it in time."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import id_at, new_id
from carpool.routing import HURRIED as LEFT_OVER
from carpool.routing import Leg, Route
from carpool.settings import OpenAIBatchSettings
from carpool.states import ServiceClass
from db.claim import claim, waiting
from db.gathering import Gathering, gather, hurry, hurry_streams
from db.provider_batches import find, members
from db.provider_responses import Note, count_open, note
from db.routes import set_route
from db.runs import set_patience
from workers.map import Map
from workers.provider_batches.gatherer import Gatherer
from workers.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

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
        "gather_seconds": 1e-6,
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


async def test_what_no_window_of_its_own_answers_in_time_goes_live_at_once(bench: "Bench") -> None:
    """Due in 10 hours: chats have the 8h window; what cannot go there does not wait for it to be
    late, and stays of its class."""
    live = Route(legs=(LEG, Leg(backend=OWN)))
    await set_route(bench.database, MODEL, live, actor="test", backends={PATIENT, OWN})
    run, own = await bench.run(PATIENT), await bench.run(OWN)
    batch, soon = new_id(), datetime.now(UTC) + timedelta(hours=10)
    await bench.sql(HURRIED, batch)
    await bench.fill(2, service_class=ServiceClass.BATCH)
    verbatim = await bench.fill(2, service_class=ServiceClass.BATCH)
    embeddings = await bench.fill(2, service_class=ServiceClass.BATCH, endpoint=2)
    await bench.sql("update queue set batch_id = $1, verbatim = id = any($2)", batch, verbatim)
    flex = await bench.fill(1, service_class=ServiceClass.FLEX, endpoint=2, deadline=soon)
    await bench.fill(1, service_class=ServiceClass.FLEX, deadline=soon)
    await bench.fill(1, service_class=ServiceClass.FLEX, endpoint=2)
    gatherer, routes = Gatherer(PATIENT, patient(background_windows=OFFERED)), Map(PATIENT)
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    assert await claimable(bench, own) == set()
    await look(run, gatherer, routes)
    assert await hurry(run.lane, gatherer.hurried, rows=100) == 5
    assert await claimable(bench, own) == {*verbatim, *embeddings, *flex}
    assert {(await bench.row(i))["class"] for i in embeddings} == {ServiceClass.BATCH}
    await look(run, gatherer, routes)
    assert gatherer.hurried == []
    await bench.sql("update runs set ended_at = now() where id = $1", own.id)
    await look(run, gatherer, routes)
    found = await look(run, gatherer, routes)
    assert sum(sum(one.takes.values()) for one in found) == 9


async def test_of_many_rows_those_alone_are_left_to_live_calls(bench: "Bench") -> None:
    """By the deadlines that were seen: rows of the same group that fit a window stay."""
    live = Route(legs=(LEG, Leg(backend=OWN)))
    await set_route(bench.database, MODEL, live, actor="test", backends={PATIENT, OWN})
    run = await bench.run(PATIENT)
    await bench.run(OWN)
    now = datetime.now(UTC)
    flex = {"service_class": ServiceClass.FLEX, "endpoint": 2}
    [soon] = await bench.fill(1, deadline=now + timedelta(hours=10), **flex)
    await bench.fill(1, deadline=now + timedelta(hours=23), **flex)
    gatherer, routes = Gatherer(PATIENT, patient(background_windows=OFFERED)), Map(PATIENT)
    await look(run, gatherer, routes)
    await hurry(run.lane, gatherer.hurried, rows=100)
    moved = await bench.sql("select id from queue where share is not null")
    assert [row["id"] for row in moved] == [soon]


@pytest.mark.parametrize("service_class", [ServiceClass.FLEX, ServiceClass.BATCH])
async def test_what_was_left_to_live_calls_is_theirs_also_as_a_suspect(
    bench: "Bench", service_class: ServiceClass
) -> None:
    """Where their leg opens with time alone, too."""
    route = Route(legs=(LEG, Leg(backend=OWN, left_seconds=43_200)))
    await set_route(bench.database, MODEL, route, actor="test", backends={PATIENT, OWN})
    await bench.run(PATIENT)
    own, batch = await bench.run(OWN), new_id()
    await bench.sql(HURRIED, batch)
    soon = datetime.now(UTC) + timedelta(hours=10)
    ids = await bench.fill(2, service_class=service_class, share=LEFT_OVER, deadline=soon)
    if service_class is ServiceClass.BATCH:
        await bench.sql("update queue set batch_id = $1", batch)
    await bench.sql("update queue set lost = 2, state = 3")
    assert await claimable(bench, own) == set(ids)


async def test_who_comes_after_all_went_waits_for_company_of_its_own(bench: "Bench") -> None:
    """Where rows come all the time, they do not go by themselves, look by look."""
    run, now = await bench.run(PATIENT), datetime.now(UTC)
    await set_route(bench.database, MODEL, Route(legs=(LEG,)), actor="test", backends={PATIENT})
    gatherer, routes = Gatherer(PATIENT, patient(gather_seconds=60)), Map(PATIENT)
    await routes.read(run.lane)
    taken = []
    for seconds in (0, 61, 66, 120, 127):
        await bench.fill(2 if seconds == 61 else 1, service_class=ServiceClass.FLEX)
        at = now + timedelta(seconds=seconds)
        found = await gatherer.look(run.lane, routes, now=at)
        taken.append(sum(sum(one.takes.values()) for one in found))
        if found:
            await bench.sql("delete from queue")
    assert taken == [0, 3, 0, 0, 3]


async def test_flex_streams_that_waited_for_a_gathering_backend_are_answered_live(
    bench: "Bench",
) -> None:
    """They are of the class that streams have which come later."""
    route = Route(legs=(LEG, Leg(backend=OWN)))
    await set_route(bench.database, MODEL, route, actor="test", backends={PATIENT, OWN})
    run, own = await bench.run(PATIENT), await bench.run(OWN)
    flex = {"service_class": ServiceClass.FLEX}
    streams = await bench.fill(2, streamed=True, **flex)
    streams += await bench.fill(1, streamed=True, share=7, **flex)
    await bench.fill(3, **flex)
    gatherer, routes = Gatherer(PATIENT, patient()), Map(PATIENT)
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    assert await claimable(bench, own) == set()
    await look(run, gatherer, routes)
    assert await hurry_streams(run.lane, gatherer.groups, rows=100) == 3
    assert await claimable(bench, own) == set(streams)


@pytest.mark.parametrize(("owned", "gathered"), [(0, 10), (5, 5), (9, 1), (10, 0)])
async def test_responses_are_gathered_up_to_the_limit_of_all_workers(
    bench: "Bench", owned: int, gathered: int
) -> None:
    """What is owned counts, created or not; and a response whose row is gone, until it is, too."""
    run = await bench.run(PATIENT)
    await set_route(bench.database, MODEL, Route(legs=(LEG,)), actor="test", backends={PATIENT})
    soon = {"service_class": ServiceClass.FLEX, "deadline": datetime.now(UTC) + timedelta(hours=10)}
    settings = patient(background_windows=OFFERED, max_background_responses=10)
    gatherer, routes = Gatherer(PATIENT, settings), Map(PATIENT)
    if owned:
        await bench.fill(owned, **soon)
        await look(run, gatherer, routes)
        [wanted] = await look(run, gatherer, routes)
        await gather(
            run.lane, wanted, run=run.id, version=routes.version, keeper=run.id, lease_seconds=15.0
        )
        [member, *_] = await members(run.lane, wanted.id)
        await note(run.lane, [Note(wanted.id, member.id, "resp_1", False)], False)
        await bench.sql("delete from queue where id = $1", member.id)
        assert await count_open(run.lane, PATIENT) == owned
    await bench.fill(20, **soon)
    await look(run, gatherer, routes)
    found = await look(run, gatherer, routes)
    assert sum(sum(one.takes.values()) for one in found) == gathered


async def look(run: "TestRun", gatherer: Gatherer, routes: Map) -> list[Gathering]:
    """What is to be gathered by the routes of now, as a run does it."""
    await set_patience(run.lane, run.id, gatherer.patience_seconds)
    await routes.read(run.lane)
    return await gatherer.look(run.lane, routes, now=datetime.now(UTC))


async def claimable(bench: "Bench", run: "TestRun") -> set[UUID]:
    """What a run of live calls may claim now, in any way; it all waits on."""
    routes, lane = Map(run.backend), await bench.open_lane()
    await routes.read(lane)
    scheduler = Scheduler(0)
    scheduler.route(routes.cells, routes.teams)
    scheduler.look(await waiting(lane, routes.cells, routes.teams))
    found = set()
    while picks := scheduler.plan(free=100, in_flight=0, now=datetime.now(UTC)):
        claims = await claim(lane, run.id, routes.version, picks)
        scheduler.settle(picks, claims, settled=id_at(datetime.now(UTC)))
        found |= {claimed.id for claimed in claims}
    await lane.rollback()
    return found
