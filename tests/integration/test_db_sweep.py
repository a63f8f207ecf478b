"""The sweep puts right what dead processes left, what waited its time, and what waits too long."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from carpool.states import Outcome, QueueState
from db.delivery import attach
from db.end import END, INTERRUPTED, end_requests
from db.finish import NOT_MINE, Failure
from db.follow import STREAM_DELAY_SECONDS
from db.processes import Process
from db.runs import begin_run
from db.sweep import LOSE, Swept, sweep
from tests.integration.sweeping import sweep_now

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench, TestRun

pytest_plugins = ("tests.integration.db_fixtures",)

LEASE_SECONDS = 150.0
GRACE_SECONDS = 130.0
PAST = timedelta(hours=1)


async def swept(bench: "Bench") -> Swept:
    """One round."""
    return await sweep_now(bench.database, lease_seconds=LEASE_SECONDS, grace_seconds=GRACE_SECONDS)


async def lose(bench: "Bench", run: "TestRun") -> Swept:
    """A round after the death of a run's process."""
    await bench.end_process(run)
    return await swept(bench)


async def expire(bench: "Bench", column: str, *ids: UUID) -> None:
    """Let a time of these rows have come."""
    await bench.sql(
        f"update queue set {column} = now() - interval '1 ms' where id = any($1::uuid[])", ids
    )


async def test_a_live_run_loses_nothing(bench: "Bench") -> None:
    await bench.fill(2)
    run = await bench.run()
    claims = await run.claim(2)
    found = await swept(bench)
    assert (found.dead_runs, found.waiting, found.lost) == ([], [], [])
    assert await run.finish(claims) == [None, None]


@pytest.mark.parametrize("who", ["runs", "processes"])
async def test_a_run_is_dead_when_its_heart_or_its_processs_has_stopped(
    bench: "Bench", who: str
) -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    await run.claim(1)
    await bench.sql(f"update {who} set heartbeat_at = now() - make_interval(secs => $1)", 100.0)
    assert (await swept(bench)).dead_runs == []
    await bench.sql(f"update {who} set heartbeat_at = now() - make_interval(secs => $1)", 160.0)
    found = await swept(bench)
    assert found.dead_runs == [run.id]
    assert [(w.model, w.team_id) for w in found.waiting] == [("tiny", 1)]
    row = await bench.row(identifier)
    assert (row["state"], row["owner"], row["epoch"], row["lost"]) == (0, None, 2, 1)
    attempts = await bench.sql("select id, epoch, outcome, run_id from attempts")
    assert [tuple(a) for a in attempts] == [(identifier, 1, "lost", run.id)]


async def test_a_round_that_stood_still_with_all_hearts_takes_none_for_dead(
    bench: "Bench",
) -> None:
    """Its statements reach a Postgres that was frozen only as that goes on."""
    run = await bench.run()
    began = await bench.value("select now()")
    for who in ("processes", "runs"):
        await bench.sql(f"update {who} set heartbeat_at = now() - make_interval(secs => $1)", 160.0)
    frozen = {"lease_seconds": LEASE_SECONDS, "grace_seconds": GRACE_SECONDS}
    found = await sweep(bench.database, now=began - timedelta(seconds=160), **frozen)
    assert found.dead_runs == []
    assert await bench.value("select count(*) from processes where ended_at is null") == 1
    assert (await swept(bench)).dead_runs == [run.id]


async def test_losses_make_suspects_and_one_alone_at_the_third_is_condemned(
    bench: "Bench",
) -> None:
    """Its neighbours are counted too, but fail for nothing."""
    ids = await bench.fill(3)
    for expected in (QueueState.WAITING, QueueState.SUSPECT):
        run = await bench.run()
        assert len(await run.claim(3)) == 3
        await lose(bench, run)
        rows = [await bench.row(identifier) for identifier in ids]
        assert {row["state"] for row in rows} == {expected}
    run = await bench.run()
    assert await run.claim(3) == []
    assert len(await run.claim(3, lost=2)) == 3
    found = await lose(bench, run)
    assert found.ended == []
    assert {(await bench.row(i))["lost"] for i in ids} == {3}
    run = await bench.run()
    assert [c.id for c in await run.claim(1, lost=3)] == ids[:1]
    channel = new_id()
    await bench.sql("update queue set channel = $2 where id = $1", ids[0], channel)
    found = await lose(bench, run)
    assert [(e.id, e.channel) for e in found.ended] == [(ids[0], channel)]
    stored = await bench.result(ids[0])
    assert (stored["outcome"], stored["status_code"]) == (Outcome.FAILED, 500)
    assert b"engine_killed" in stored["body"]
    run = await bench.run()
    claims = [*(await run.claim(1, lost=3)), *(await run.claim(1, lost=3))]
    assert [c.id for c in claims] == ids[1:]
    assert await run.finish(claims) == [None, None]
    assert await bench.value("select count(*) from attempts where id = $1", ids[0]) == 4


async def test_losses_and_failures_are_counted_apart(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    await run.claim(1)
    failure = Failure(id=identifier, epoch=1, delay_seconds=0, error="503")
    await run.finisher.retry(run.lane, [failure])
    await swept(bench)
    await run.claim(1)
    await lose(bench, run)
    row = await bench.row(identifier)
    assert (row["attempts"], row["lost"], row["epoch"]) == (1, 1, 3)


async def test_what_was_handed_back_in_order_counts_as_no_loss(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(1)
    await run.finisher.release(run.lane, [(c.id, c.epoch) for c in claims])
    await lose(bench, run)
    assert (await bench.row(identifier))["lost"] == 0


async def test_more_rows_than_one_transaction_takes_are_all_returned(bench: "Bench") -> None:
    await bench.fill(4500)
    run = await bench.run()
    assert len(await run.claim(4500)) == 4500
    await lose(bench, run)
    assert await bench.value("select count(*) from queue where state = 0 and lost = 1") == 4500
    assert await bench.value("select count(*) from attempts") == 4500


async def test_a_streams_client_is_told_before_the_stream_begins_anew(bench: "Bench") -> None:
    """It waits for a moment in which the API that has sent tokens of it can end it."""
    channel = new_id()
    [listened] = await bench.fill(1, streamed=True, channel=channel)
    [unheard] = await bench.fill(1, streamed=True)
    run = await bench.run()
    await run.claim(2)
    found = await lose(bench, run)
    assert [(c, n.id, n.epoch) for c, n in found.lost] == [(channel, listened, 2)]
    assert (await bench.row(listened))["state"] == QueueState.BACKING_OFF
    delay = "select not_before - ended_at from queue join attempts using (id) where id = $1"
    assert await bench.value(delay, listened) == timedelta(seconds=STREAM_DELAY_SECONDS)
    assert (await bench.row(unheard))["state"] == QueueState.WAITING
    other = await bench.run()
    assert [c.id for c in await other.claim(9)] == [unheard]
    [ended] = await end_requests(bench.database, [listened], INTERRUPTED)
    assert ended.owner is None
    await expire(bench, "not_before", listened)
    await swept(bench)
    assert await other.claim(9) == []
    assert (await bench.result(listened))["outcome"] == Outcome.FAILED


async def test_a_swept_stream_that_nobody_read_runs_again(bench: "Bench") -> None:
    [identifier] = await bench.fill(1, streamed=True, channel=new_id())
    run = await bench.run()
    await run.claim(1)
    await lose(bench, run)
    await expire(bench, "not_before", identifier)
    found = await swept(bench)
    assert [w.team_id for w in found.waiting] == [1]
    other = await bench.run()
    claims = await other.claim(1)
    assert claims[0].epoch == 3
    assert len(await other.finish(claims)) == 1


async def test_a_finish_that_holds_its_row_while_the_run_is_swept_stands(bench: "Bench") -> None:
    """The sweep waits for the finish, and then has nothing of it to return."""
    ids = await bench.fill(2)
    run = await bench.run()
    claims = await run.claim(2)
    finishing, losing = await bench.open_lane(), await bench.open_lane()
    await run.finish(claims[:1], lane=finishing)
    await bench.end_process(run)
    lost = asyncio.create_task(losing.fetch(LOSE, run.id, 10, 1.0))
    await bench.until_blocked(losing.pid)
    await finishing.commit()
    assert [row["id"] for row in await lost] == ids[1:]
    await losing.commit()
    assert await bench.value("select count(*) from results") == 1


async def test_a_finish_that_comes_while_its_run_is_swept_is_dropped(bench: "Bench") -> None:
    await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(1)
    finishing, losing = await bench.open_lane(), await bench.open_lane()
    await losing.fetch(LOSE, run.id, 10, 1.0)
    finish = asyncio.create_task(run.finish(claims, lane=finishing))
    await bench.until_blocked(finishing.pid)
    await losing.commit()
    assert await finish == [NOT_MINE]
    await finishing.commit()
    assert await bench.value("select count(*) from results") == 0


async def test_what_backs_off_is_promoted_when_its_time_has_come(bench: "Bench") -> None:
    ids = await bench.fill(3)
    run = await bench.run()
    await run.claim(3)
    failures = [Failure(id=i, epoch=1, delay_seconds=60, error="429") for i in ids]
    await run.finisher.retry(run.lane, failures)
    await bench.sql("update queue set lost = 2 where id = $1", ids[2])
    assert (await swept(bench)).waiting == []
    await expire(bench, "not_before", *ids[1:])
    assert len((await swept(bench)).waiting) == 1
    states = [(await bench.row(i))["state"] for i in ids]
    assert states == [QueueState.BACKING_OFF, QueueState.WAITING, QueueState.SUSPECT]
    claims = await run.claim(9)
    assert [(c.id, c.epoch, c.attempts) for c in claims] == [(ids[1], 2, 1)]


async def test_deadlines_end_what_waits_and_what_runs(bench: "Bench") -> None:
    ids = await bench.fill(3, deadline=datetime.now(UTC) - PAST)
    [later] = await bench.fill(1, deadline=datetime.now(UTC) + PAST)
    run = await bench.run()
    claims = await run.claim(1)
    found = await swept(bench)
    assert sorted(e.id for e in found.ended) == ids
    assert {e.owner for e in found.ended} == {None, run.id}
    assert await run.finish(claims) == [NOT_MINE]
    stored = await bench.sql("select outcome, status_code from results")
    assert {tuple(s) for s in stored} == {(Outcome.EXPIRED, 408)}
    assert await bench.row(later) is not None


async def test_what_nobody_came_back_for_ends(bench: "Bench") -> None:
    ids = await bench.fill(2)
    await expire(bench, "abandon_at", ids[0])
    await bench.sql("update queue set abandon_at = now() + interval '1 hour' where id = $1", ids[1])
    assert [e.id for e in (await swept(bench)).ended] == ids[:1]
    assert b"client_disconnected" in (await bench.result(ids[0]))["body"]


async def test_a_client_that_comes_back_at_the_last_moment_is_not_ended(bench: "Bench") -> None:
    """Between the look for what is forsaken and its end."""
    [identifier] = await bench.fill(1)
    await expire(bench, "abandon_at", identifier)
    newcomer = new_id()

    class ComingBack:
        async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
            if sql == END:
                assert await attach(bench.database, identifier, newcomer)
            return await bench.database.fetch(sql, *arguments)

    found = await sweep_now(ComingBack(), lease_seconds=LEASE_SECONDS, grace_seconds=GRACE_SECONDS)
    assert found.ended == []
    assert (await bench.row(identifier))["channel"] == newcomer


async def test_what_waited_at_a_dead_process_is_let_go_and_its_grace_begins(
    bench: "Bench",
) -> None:
    dead, living = Process(new_id(), "api", None), Process(new_id(), "api", None)
    for process in (dead, living):
        await process.enter(bench.database)
    ids = await bench.fill(2, channel=dead.id)
    [kept] = await bench.fill(1, channel=living.id)
    await bench.sql(
        "update processes set heartbeat_at = now() - interval '160 seconds' where id = $1", dead.id
    )
    await swept(bench)
    for identifier in ids:
        row = await bench.row(identifier)
        grace = (row["abandon_at"] - datetime.now(UTC)).total_seconds()
        assert row["channel"] is None
        assert GRACE_SECONDS - 10 < grace <= GRACE_SECONDS
    assert (await bench.row(kept))["channel"] == living.id
    assert (await bench.row(kept))["abandon_at"] is None
    shown = "select array_agg(id) from processes where ended_at is null"
    assert await bench.value(shown) == [living.id]
    assert await bench.value("select settled_at is not null from processes where id = $1", dead.id)


async def test_who_takes_a_seat_proves_its_last_holder_dead(bench: "Bench") -> None:
    old = Process(new_id(), "worker", "here:1")
    await old.enter(bench.database)
    run = await bench.run(process=old.id)
    [identifier] = await bench.fill(1)
    await run.claim(1)
    successor = Process(new_id(), "worker", "here:1")
    await successor.enter(bench.database)
    assert (await swept(bench)).dead_runs == [run.id]
    assert (await bench.row(identifier))["state"] == QueueState.WAITING
    assert await successor.beat(bench.database)
    # The old one was only slow: it lives on, without the seat.
    assert not await old.beat(bench.database)
    assert await old.beat(bench.database)
    seats = await bench.sql("select id, seat from processes where ended_at is null")
    assert {(row["id"], row["seat"]) for row in seats} == {
        (successor.id, "here:1"),
        (old.id, None),
    }


async def test_a_process_that_was_paused_takes_its_own_seat_again(bench: "Bench") -> None:
    process = Process(new_id(), "worker", "here:1")
    await process.enter(bench.database)
    await bench.sql("update processes set ended_at = now()")
    assert not await process.beat(bench.database)
    assert await bench.value("select seat from processes where ended_at is null") == "here:1"


async def test_of_two_that_want_a_seat_at_once_one_has_it(bench: "Bench") -> None:
    one, two = await bench.open_lane(), await bench.open_lane()
    first, second = Process(new_id(), "api", "seat"), Process(new_id(), "api", "seat")
    await first.enter(one)
    entering = asyncio.create_task(second.enter(two))
    await bench.until_blocked(two.pid)
    await one.commit()
    await asyncio.gather(entering, return_exceptions=True)
    await two.rollback()
    await second.enter(bench.database)
    held = await bench.sql("select id from processes where seat = 'seat' and ended_at is null")
    assert [row["id"] for row in held] == [second.id]


async def test_two_runs_never_hold_the_same_slot(bench: "Bench") -> None:
    """Sixteen begin at once, again and again, until all have one."""
    process = await bench.process()
    lanes = [bench.lane() for _ in range(16)]

    async def begin(lane: Any) -> int:
        tries = 1
        while not await begin_run(
            lane, run=new_id(), backend="engine", process=process, worker="w", capacity=1
        ):
            tries += 1
        return tries

    await asyncio.gather(*(begin(lane) for lane in lanes))
    slots = await bench.sql("select slot from runs where ended_at is null order by slot")
    assert [row["slot"] for row in slots] == list(range(16))


async def test_the_slot_of_an_ended_run_is_taken_again(bench: "Bench") -> None:
    runs = [await bench.run() for _ in range(3)]
    await bench.sql("update runs set ended_at = now() where id = $1", runs[1].id)
    again = await bench.run()
    assert await bench.value("select slot from runs where id = $1", again.id) == 1


async def test_backends_with_work_and_without_a_run_are_named(bench: "Bench") -> None:
    await bench.route("other", "idle")
    await bench.fill(1)
    assert (await swept(bench)).unserved == ["engine"]
    await bench.run()
    assert (await swept(bench)).unserved == []
    await bench.fill(1, model="other")
    assert (await swept(bench)).unserved == ["idle"]


async def test_two_sweeps_at_once_return_each_row_once(bench: "Bench") -> None:
    await bench.fill(3000)
    for _ in range(3):
        run = await bench.run()
        await run.claim(1000)
        await bench.end_process(run)
    await asyncio.gather(*(swept(bench) for _ in range(4)))
    await swept(bench)
    rows = await bench.sql("select state, lost, count(*) as n from queue group by state, lost")
    assert [tuple(row) for row in rows] == [(QueueState.WAITING, 1, 3000)]
    assert await bench.value("select count(*) from attempts") == 3000
