"""What waits becomes a provider batch if it fits, and stands in nobody's way if not."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carpool.ids import new_id
from carpool.routing import Cell, Kind
from carpool.states import OwnerKind, QueueState, ServiceClass
from db import provider_batches as steps
from db.gathering import Waiters, survey
from db.gathering import gather as gather_rows
from db.routes import routing_version
from tests.integration.provider_batch import (
    BATCH,
    CELLS,
    FLEX,
    LEASE_SECONDS,
    ME,
    MODEL,
    TEAM,
    gather,
    group,
    wanted,
)

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 2000


async def test_what_fits_is_taken_and_all_else_waits_on(bench: "Bench") -> None:
    """One endpoint, no streams, the model and team asked for; batch rows, and flex rows by age."""
    run = await bench.run()
    taken = await bench.fill(3, **BATCH)
    taken += await bench.fill(2, **FLEX)
    others: list[dict[str, Any]] = [
        {"endpoint": 2},
        {"streamed": True},
        {"team_id": 2},
        {"model": "other"},
        {"service_class": ServiceClass.INTERACTIVE},
        {"share": 5},
    ]
    left = [i for changes in others for i in await bench.fill(2, **(BATCH | changes))]
    gathering = wanted(takes={group(): 100, group(ServiceClass.FLEX): 100})
    assert await gather(run, gathering) == 5
    found = await steps.find(run.lane, gathering.id)
    assert found is not None
    assert (found.state, found.lines, found.reason) == (0, 5, "It is cheap.")
    for identifier in taken:
        row = await bench.row(identifier)
        assert (row["state"], row["owner"], row["owner_kind"], row["epoch"]) == (
            QueueState.CLAIMED,
            gathering.id,
            OwnerKind.PROVIDER_BATCH,
            1,
        )
    assert {(await bench.row(identifier))["state"] for identifier in left} == {0}


@pytest.mark.parametrize("service_class", [ServiceClass.FLEX, ServiceClass.BATCH])
async def test_of_traffic_that_is_cut_a_share_is_taken(
    bench: "Bench", service_class: ServiceClass
) -> None:
    run = await bench.run()
    for share in (0, 499, 500, 600, 9999, None):
        await bench.fill(1, share=share, service_class=service_class)
    cell = Cell(
        model=MODEL,
        upstream="theirs",
        service_class=service_class,
        kind=Kind.SHARE,
        teams=None,
        shares=(500, 9999),
    )
    part = group(cell=cell)
    [found] = await survey(run.lane, [part], rows=10)
    assert found.rows == 2
    assert await gather(run, wanted(takes={part: 10})) == 2
    taken = await bench.sql("select share from queue where state = 1 order by share")
    assert [row["share"] for row in taken] == [500, 600]


async def test_suspects_are_taken_like_all_that_waits(bench: "Bench") -> None:
    """Of the cell and lost as often as is asked for; others wait on."""
    run = await bench.run()
    taken = await bench.fill(2, **BATCH)
    others: list[dict[str, Any]] = [FLEX, {"streamed": True}, {"team_id": 2}, {"share": 5}]
    left = [i for changes in others for i in await bench.fill(2, **(BATCH | changes))]
    await bench.sql("update queue set state = 3, lost = 2")
    left += await bench.fill(2, **BATCH)
    suspects = group(lost=2)
    assert await survey(run.lane, [suspects], rows=10) == [Waiters(suspects, 0, None, None, 2)]
    assert await survey(run.lane, [group(lost=3)], rows=10) == []
    assert await gather(run, wanted(takes={suspects: 10})) == 2
    claimed = await bench.sql("select id from queue where state = 1")
    assert {row["id"] for row in claimed} == set(taken)
    assert await gather(run, wanted(takes={group(): 10})) == 2


async def test_suspects_of_cut_traffic_are_taken_by_their_share(bench: "Bench") -> None:
    run = await bench.run()
    for share in (0, 500, 9999):
        await bench.fill(1, share=share, **BATCH)
    await bench.sql("update queue set state = 3, lost = 2")
    cell = replace(CELLS[ServiceClass.BATCH], kind=Kind.SHARE, shares=(500, 9999))
    suspects = group(cell=cell, lost=2)
    [found] = await survey(run.lane, [suspects], rows=10)
    assert found.rows == 1
    assert await gather(run, wanted(takes={suspects: 10})) == 1


async def test_what_does_not_fit_stands_in_nobodys_way(bench: "Bench") -> None:
    """Though it comes first; of what fits, no more is taken than was asked for."""
    run = await bench.run()
    await bench.fill(50, streamed=True, prefix_key=-5, **BATCH)
    ids = await bench.fill(5, **BATCH)
    assert await gather(run, wanted(3)) == 3
    assert await bench.value("select count(*) from queue where state = 1") == 3
    assert [(await bench.row(identifier))["state"] for identifier in ids] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("columns", [FLEX, BATCH, BATCH | {"share": 5}])
async def test_streams_in_front_hide_nobody(bench: "Bench", columns: dict[str, Any]) -> None:
    """Though there are more of them than rows that are looked at."""
    run = await bench.run()
    await bench.fill(20, streamed=True, prefix_key=-5, **columns)
    await bench.fill(3, **columns)
    cell = CELLS[columns["service_class"]]
    if "share" in columns:
        cell = replace(cell, kind=Kind.SHARE, shares=(0, 10))
    mine = group(columns["service_class"], cell=cell)
    assert [waiters.rows for waiters in await survey(run.lane, [mine], rows=10)] == [3]
    assert await gather(run, wanted(takes={mine: 10}, rows=10)) == 3


async def test_nothing_is_gathered_where_nothing_fits(bench: "Bench") -> None:
    run = await bench.run()
    await bench.fill(2, **BATCH)
    assert await gather(run, wanted(endpoint=2)) == 0
    assert await bench.value("select count(*) from provider_batches") == 0


async def test_a_run_that_was_ended_gathers_nothing(bench: "Bench") -> None:
    run = await bench.run()
    await bench.fill(2, **BATCH)
    await bench.sql("update runs set ended_at = now()")
    assert await gather(run, wanted()) == 0


async def test_nothing_is_gathered_by_routes_that_have_changed(bench: "Bench") -> None:
    run = await bench.run()
    await bench.fill(2, **BATCH)
    version = await routing_version(run.lane)
    await bench.route("another")
    got = await gather_rows(
        run.lane, wanted(), run=run.id, version=version, keeper=ME, lease_seconds=LEASE_SECONDS
    )
    assert got == 0


async def test_a_window_takes_only_rows_with_the_time_for_it(bench: "Bench") -> None:
    run = await bench.run()
    now = datetime.now(UTC)
    hours: list[float | None] = [1, 5, 30, None]
    ids = [
        (await bench.fill(1, deadline=None if h is None else now + timedelta(hours=h), **FLEX))[0]
        for h in hours
    ]
    takes = {group(ServiceClass.FLEX): 10}
    some = wanted(takes=takes, earliest=now + timedelta(hours=2), before=now + timedelta(hours=24))
    assert await gather(run, some) == 1
    assert (await bench.row(ids[1]))["owner"] == some.id
    patient = wanted(takes=takes, earliest=now + timedelta(hours=24))
    assert await gather(run, patient) == 2
    assert (await bench.row(ids[0]))["state"] == QueueState.WAITING


async def test_rows_of_a_batch_go_by_its_deadline(bench: "Bench") -> None:
    """The survey tells the batches' deadlines, leaves out the stopped, and only the named go."""
    run = await bench.run()
    batches = [new_id() for _ in range(3)]
    for batch, status in zip(batches, (1, 1, 3), strict=True):
        [row] = await bench.fill(1, **BATCH)
        await bench.sql("update queue set batch_id = $1 where id = $2", batch, row)
        await bench.sql(
            """insert into batches (id, team_id, key_id, endpoint, completion_window,
                input_file_id, fingerprint, status, expires_at)
            values ($1, $2, $1, 0, '24h', 'file', $1, $3, now() + interval '5 hours')""",
            *(batch, TEAM, status),
        )
    found = await survey(run.lane, [group()], rows=10)
    assert {waiters.batch_id for waiters in found} == set(batches[:2])
    for waiters in found:
        assert waiters.deadline is not None
        left = waiters.deadline - datetime.now(UTC)
        assert timedelta(hours=4) < left < timedelta(hours=6)
    assert await gather(run, wanted(batches=[batches[0]])) == 1


async def test_the_survey_counts_what_may_go_by_endpoint(bench: "Bench") -> None:
    run = await bench.run()
    await bench.fill(3, **BATCH)
    await bench.fill(2, endpoint=2, **BATCH)
    await bench.fill(4, streamed=True, **BATCH)
    mine = group()
    found = await survey(run.lane, [mine], rows=100)
    assert sorted(found, key=lambda w: w.endpoint) == [
        Waiters(mine, 0, None, None, 3),
        Waiters(mine, 2, None, None, 2),
    ]
    assert sum(w.rows for w in await survey(run.lane, [mine], rows=4)) <= 4


async def test_gatherers_share_no_row_and_lose_none(bench: "Bench") -> None:
    ids = await bench.fill(ROWS, **BATCH)
    runs = [await bench.run() for _ in range(3)]

    async def work(run: "TestRun") -> int:
        total = 0
        while await bench.value("select count(*) from queue where state = 0"):
            total += await gather(run, wanted(64))
        return total

    assert sum(await asyncio.gather(*(work(run) for run in runs))) == ROWS
    [counted] = await bench.sql("select sum(lines) as lines, count(*) from provider_batches")
    assert counted["lines"] == len(ids)
    owners = await bench.sql("select distinct owner from queue where epoch = 1 and owner_kind = 2")
    assert len(owners) == counted["count"]
