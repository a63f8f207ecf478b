"""Rows are claimed by one run each and none is lost, whatever claims, sweeps or cancels beside."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import id_at, line_id, new_batch_id
from carpool.routing import Cell, Kind, Leg, Route
from carpool.states import QueueState, ServiceClass
from db.claim import NO_ID, Claim, Group, Pick, StaleRoutesError, claim, waiting
from db.end import CANCELLED, end_requests
from db.routes import routing_version, set_route
from db.sweep import DEAD_OWNERS, END_DEAD_RUNS
from tests.integration.sweeping import sweep_now
from workers.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 4000
TAKE = 64
LEASE_SECONDS = 150.0
DUE = Cell(
    model="tiny",
    upstream="tiny",
    service_class=ServiceClass.INTERACTIVE,
    kind=Kind.DUE,
    teams=None,
    seconds=600.0,
)
SOON = datetime.now(UTC) + timedelta(hours=1)
KINDS: dict[str, dict[str, Any]] = {
    "by age": {},
    "by prefix": {"service_class": ServiceClass.BATCH},
    "by deadline": {"cell": DUE, "due_before": SOON + timedelta(hours=1)},
    "suspects": {"lost": 2},
}


def columns_of(kind: str) -> dict[str, Any]:
    """Of rows that are claimed so."""
    group = KINDS[kind]
    columns = {k: v for k, v in group.items() if k == "service_class"}
    return columns | {"deadline": SOON} if "cell" in group else columns


async def claim_all(run: "TestRun", bench: "Bench", group: dict[str, Any]) -> list[Claim]:
    """Claim until nothing waits any more."""
    mine: list[Claim] = []
    while True:
        claims = await run.claim(TAKE, **group)
        mine.extend(claims)
        if not claims and not await bench.value("select count(*) from queue where state <> 1"):
            return mine


@pytest.mark.parametrize("claimers", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
async def test_claimers_share_no_row_and_lose_none(
    bench: "Bench", kind: str, claimers: int
) -> None:
    group = KINDS[kind]
    ids = await bench.fill(ROWS, **columns_of(kind))
    if "lost" in group:
        await bench.sql("update queue set state = 3, lost = $1", group["lost"])
    runs = [await bench.run() for _ in range(claimers)]
    taken = await asyncio.gather(*(claim_all(run, bench, group) for run in runs))
    assert sorted(c.id for claims in taken for c in claims) == ids
    for run, claims in zip(runs, taken, strict=True):
        owned = await bench.sql("select id, epoch from queue where owner = $1", run.id)
        assert {(row["id"], row["epoch"]) for row in owned} == {(c.id, c.epoch) for c in claims}
        assert {c.epoch for c in claims} <= {1}


async def test_claimers_beside_requeuers_cancellers_and_finishers_lose_none(
    bench: "Bench",
) -> None:
    """Four runs claim; some of it they release, retry or finish, some is cancelled under them."""
    from tests.integration.db_fixtures import persist

    ids = await bench.fill(ROWS)
    runs = [await bench.run() for _ in range(4)]
    canceller = bench.lane()

    async def work(run: "TestRun") -> None:
        turn = 0
        while await bench.value("select count(*) from queue"):
            claims = await run.claim(TAKE)
            turn += 1
            if turn % 5 == 0:
                held = [(c.id, c.epoch) for c in claims]
                await persist(partial(run.finisher.release, run.lane, held))
            else:
                await persist(partial(run.finish, claims))

    async def cancel() -> None:
        for start in range(0, ROWS, 40):
            some = ids[start : start + 4]
            await persist(partial(end_requests, canceller, some, CANCELLED))

    await asyncio.gather(*(work(run) for run in runs), cancel())
    assert await bench.value("select count(*) from results") == ROWS
    assert await bench.value("select count(distinct id) from results") == ROWS
    assert set(ids) == {row["id"] for row in await bench.sql("select id from results")}


async def test_rows_that_another_claims_just_now_are_skipped_and_not_waited_for(
    bench: "Bench",
) -> None:
    ids = await bench.fill(10)
    first, second = await bench.run(), await bench.run()
    lane = await bench.open_lane()
    held = await first.claim(4, lane=lane)
    assert [c.id for c in held] == ids[:4]
    assert [c.id for c in await second.claim(10)] == ids[4:]
    await lane.commit()
    assert await second.claim(10) == []


async def test_a_claim_begins_at_its_cursor_in_its_order(bench: "Bench") -> None:
    ids = await bench.fill(6)
    run = await bench.run()
    assert [c.id for c in await run.claim(2, after=ids[1])] == ids[2:4]
    keys = [3, 1, 2]
    batch = [
        (await bench.fill(1, service_class=ServiceClass.BATCH, prefix_key=key))[0] for key in keys
    ]
    claims = await run.claim(9, service_class=ServiceClass.BATCH, after_key=2, after=NO_ID)
    assert [c.id for c in claims] == [batch[2], batch[0]]


async def test_a_run_that_was_swept_first_claims_nothing(bench: "Bench") -> None:
    """The sweep's update holds the run; the claim waits for it, and then sees a dead run."""
    await bench.fill(10)
    run = await bench.run()
    await bench.end_process(run)
    now = await bench.value("select now()")
    sweeping, stalled = await bench.open_lane(), await bench.open_lane()
    assert [row["id"] for row in await sweeping.fetch(END_DEAD_RUNS, LEASE_SECONDS, now)] == [
        run.id
    ]
    claiming = asyncio.create_task(run.claim(5, lane=stalled))
    await bench.until_blocked(stalled.pid)
    await sweeping.commit()
    assert await claiming == []
    await stalled.commit()
    assert await bench.value("select count(*) from queue where state = 0") == 10


async def test_a_run_that_claims_first_is_swept_with_what_it_claimed(bench: "Bench") -> None:
    """The claim's share lock holds the sweep, which then returns the rows of that very claim."""
    await bench.fill(10)
    run = await bench.run()
    await bench.end_process(run)
    now = await bench.value("select now()")
    sweeping, claiming = await bench.open_lane(), await bench.open_lane()
    claims = await run.claim(5, lane=claiming)
    assert len(claims) == 5
    ending = asyncio.create_task(sweeping.fetch(END_DEAD_RUNS, LEASE_SECONDS, now))
    await bench.until_blocked(sweeping.pid)
    await claiming.commit()
    assert [row["id"] for row in await ending] == [run.id]
    await sweeping.commit()
    await sweep_now(bench.lane(), lease_seconds=LEASE_SECONDS, grace_seconds=1)
    assert await bench.value("select count(*) from queue where state = 0") == 10
    assert await run.finish(claims) == [UUID(int=0)] * 5


async def test_rows_of_a_run_that_does_not_exist_are_found(bench: "Bench") -> None:
    await bench.fill(3)
    run = await bench.run()
    await run.claim(2)
    await bench.sql("delete from runs")
    assert [row["owner"] for row in await bench.sql(DEAD_OWNERS)] == [run.id]


async def test_a_provider_batch_is_no_dead_owner(bench: "Bench") -> None:
    await bench.fill(1)
    await bench.sql("update queue set state = 1, owner_kind = 2, owner = $1", UUID(int=9))
    assert await bench.sql(DEAD_OWNERS) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_route_nothing_is_claimed_and_a_new_route_is_followed_at_once(
    bench: "Bench", kind: str
) -> None:
    from tests.integration.db_fixtures import pick

    group = KINDS[kind]
    await bench.fill(4, **columns_of(kind))
    if "lost" in group:
        await bench.sql("update queue set state = 3, lost = 2")
    ours, theirs = await bench.run(), await bench.run("elsewhere")
    assert await waiting(theirs.lane, await bench.cells("elsewhere")) == []
    version = await routing_version(ours.lane)
    route = Route(legs=(Leg(backend="elsewhere", upstream="big"),))
    await set_route(bench.database, "tiny", route, actor="test")
    with pytest.raises(StaleRoutesError):
        await claim(ours.lane, ours.id, version, [pick(1, **group)])
    assert await waiting(ours.lane, await bench.cells()) == []
    cells = await bench.cells("elsewhere")
    first = min(await waiting(theirs.lane, cells), key=lambda first: first.id)
    claims = await claim(theirs.lane, theirs.id, version + 1, [Pick(group=first.group, take=4)])
    assert len(claims) == 4
    assert {c.upstream for c in claims} == {"big"}


async def test_what_waits_is_told_by_model_class_team_and_loss(bench: "Bench") -> None:
    await bench.route("other")
    await bench.fill(2)
    await bench.fill(2, team_id=7)
    await bench.fill(2, model="other", service_class=ServiceClass.BATCH, team_id=3)
    await bench.fill(1, model="unrouted")
    suspects = await bench.fill(2, team_id=9)
    await bench.sql("update queue set state = 3, lost = 3 where id = any($1)", suspects)
    backing_off = await bench.fill(1, team_id=11)
    await bench.sql("update queue set state = 2 where id = any($1)", backing_off)
    found = {
        (g.cell.model, g.cell.service_class, g.team_id, g.lost)
        for g, _, _ in await waiting(bench.lane(), await bench.cells())
    }
    assert found == {
        ("tiny", ServiceClass.INTERACTIVE, 1, 0),
        ("tiny", ServiceClass.INTERACTIVE, 7, 0),
        ("other", ServiceClass.BATCH, 3, 0),
        ("tiny", ServiceClass.INTERACTIVE, 9, 3),
    }


async def test_a_claim_of_several_teams_takes_of_each_its_number(bench: "Bench") -> None:
    from tests.integration.db_fixtures import cell_of

    await bench.fill(5)
    await bench.fill(5, team_id=2)
    run = await bench.run()
    picks = [Pick(group=Group(cell=cell_of(), team_id=t), take=n) for t, n in ((1, 2), (2, 3))]
    claims = await claim(run.lane, run.id, await routing_version(run.lane), picks)
    assert sorted(c.team_id for c in claims) == [1, 1, 2, 2, 2]
    states = await bench.sql("select state, count(*) as n from queue group by state order by state")
    assert [(row["state"], row["n"]) for row in states] == [
        (QueueState.WAITING, 5),
        (QueueState.CLAIMED, 5),
    ]


async def test_a_claim_that_meets_its_run_s_heartbeat_brings_every_body(bench: "Bench") -> None:
    """Postgres 18.4 died of it when one statement claimed and read the bodies, at 70 rows."""
    run = await bench.run()
    for number in (10, 40, 70, 100, 130):
        await bench.fill(number)
        heart = await bench.open_lane()
        await heart.fetch("update runs set heartbeat_at = now() where id = $1", run.id)
        claiming = asyncio.create_task(run.claim(number))
        await bench.blocked_pid()
        await heart.commit()
        claims = await claiming
        assert len(claims) == number
        assert all(claimed.body for claimed in claims)


async def test_a_suspect_goes_only_where_its_route_leads(bench: "Bench") -> None:
    """Its team, class, share and age count as those of any other."""
    from tests.integration.db_fixtures import BACKEND, MODEL

    route = Route(
        legs=(
            Leg(backend="own", teams=("red",)),
            Leg(backend="canary", share=10),
            Leg(backend=BACKEND, classes=("interactive",)),
            Leg(backend="late", after_seconds=3600),
            Leg(backend="hurried", left_seconds=600),
        )
    )
    names = ("own", "canary", BACKEND, "late", "hurried")
    await set_route(bench.database, MODEL, route, actor="test", backends=names)
    runs = {name: await bench.run(name) for name in names}
    made = "insert into teams (name) values ('usual'), ('red') returning id"
    red = (await bench.sql(made))[1]["id"]
    [its] = await bench.fill(1, team_id=red)
    [cut] = await bench.fill(1, share=7)
    [rest] = await bench.fill(1, share=7777)
    [flex] = await bench.fill(1, service_class=ServiceClass.FLEX)
    old = id_at(datetime.now(UTC) - timedelta(hours=2))
    [aged] = await bench.fill(1, service_class=ServiceClass.FLEX, id=old)
    in_minutes = datetime.now(UTC) + timedelta(minutes=5)
    [near] = await bench.fill(1, service_class=ServiceClass.FLEX, share=7777, deadline=in_minutes)
    await bench.fill(1, service_class=ServiceClass.FLEX, deadline=in_minutes + timedelta(hours=1))
    await bench.sql("update queue set state = 3, lost = 2")
    found: dict[str, set[UUID]] = {}
    for name, run in runs.items():
        firsts = await waiting(run.lane, await bench.cells(name), {red: "red"})
        scheduler = Scheduler(0)
        scheduler.route((first.group.cell for first in firsts), {red: "red"})
        scheduler.look(firsts)
        found[name] = set()
        while picks := scheduler.plan(free=9, in_flight=0, now=datetime.now(UTC)):
            version = await routing_version(run.lane)
            found[name] |= {claimed.id for claimed in await claim(run.lane, run.id, version, picks)}
    assert found == {
        "own": {its},
        "canary": {cut},
        BACKEND: {rest},
        "late": {aged},
        "hurried": {near},
    }
    assert (await bench.row(flex))["state"] == QueueState.SUSPECT


async def hurried(bench: "Bench", leg: Leg) -> "TestRun":
    """A run of the second leg of a route, whose first backend is up."""
    from tests.integration.db_fixtures import BACKEND, MODEL

    route = Route(legs=(Leg(backend=BACKEND), leg))
    await set_route(bench.database, MODEL, route, actor="test", backends=(BACKEND, leg.backend))
    await bench.run()
    return await bench.run(leg.backend)


async def test_a_leg_for_little_time_left_takes_what_is_near_its_deadline(bench: "Bench") -> None:
    """Of every class, with or without a share, the nearest first; the sweep ends what is past."""
    run = await hurried(bench, Leg(backend="quick", left_seconds=600))
    now = datetime.now(UTC)
    flex = {"service_class": ServiceClass.FLEX}
    near = {
        minutes: (await bench.fill(1, deadline=now + timedelta(minutes=minutes), **flex))[0]
        for minutes in (9, 3, -1, 11, 60)
    }
    [shared] = await bench.fill(1, deadline=now + timedelta(minutes=5), share=7, **flex)
    [interactive] = await bench.fill(1, deadline=now + timedelta(minutes=1))
    await bench.fill(1, **flex)
    firsts = await waiting(run.lane, await bench.cells("quick"))
    assert {(f.group.cell.kind, f.group.cell.service_class) for f in firsts} == {
        (Kind.DUE, ServiceClass.FLEX),
        (Kind.DUE, ServiceClass.INTERACTIVE),
    }
    scheduler = Scheduler(0)
    scheduler.route((first.group.cell for first in firsts), {})
    scheduler.look(firsts)
    taken = []
    version = await routing_version(run.lane)
    while picks := scheduler.plan(free=2, in_flight=0, now=now):
        claims = await claim(run.lane, run.id, version, picks)
        scheduler.settle(picks, claims, settled=NO_ID)
        taken += [claimed.id for claimed in claims]
    assert taken == [interactive, near[3], shared, near[9]]


async def test_what_waits_far_from_its_deadline_is_not_looked_for(bench: "Bench") -> None:
    run = await hurried(bench, Leg(backend="quick", left_seconds=60))
    await bench.fill(3, deadline=datetime.now(UTC) + timedelta(hours=1))
    await bench.fill(3)
    assert await waiting(run.lane, await bench.cells("quick")) == []


async def test_a_claim_of_a_line_brings_its_batchs_deadline(bench: "Bench") -> None:
    batch = new_batch_id()
    await bench.sql(
        """
        insert into batches (
            id, team_id, key_id, endpoint, completion_window, input_file_id, fingerprint, status,
            expires_at
        )
        values ($1, 1, $1, 0, '24h', 'file', $1, 1, $2)
        """,
        batch,
        SOON,
    )
    lines = [line_id(batch, number) for number in (1, 2)]
    for line in lines:
        await bench.fill(1, id=line, service_class=ServiceClass.BATCH)
    await bench.sql("update queue set batch_id = $1", batch)
    run = await bench.run()
    [first] = await run.claim(1, service_class=ServiceClass.BATCH)
    assert (first.deadline, first.stopped) == (SOON, False)
    await bench.sql("update batches set status = 3")
    [second] = await run.claim(1, service_class=ServiceClass.BATCH)
    assert (second.deadline, second.stopped) == (SOON, True)
    [alone] = [c for _ in await bench.fill(1, deadline=SOON) for c in await run.claim(1)]
    assert (alone.deadline, alone.stopped) == (SOON, False)
