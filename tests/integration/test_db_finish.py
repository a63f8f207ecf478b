"""A request has one result at most, stored by whom its claim is still; whatever races with it."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from carpool.ids import new_id
from carpool.states import Outcome, QueueState
from db.delivery import attach
from db.end import CANCELLED, end_requests
from db.finish import NOT_MINE, Failure, limited_for
from db.results import result_of
from db.runs import beat_run, release_strays
from tests.integration.sweeping import sweep_now

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

LEASE_SECONDS = 150.0


async def test_a_finish_takes_the_row_and_leaves_one_result(bench: "Bench") -> None:
    channel = new_id()
    ids = await bench.fill(2, channel=channel)
    ids += await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(3)
    assert await run.finish(claims) == [channel, channel, None]
    assert await bench.value("select count(*) from queue") == 0
    stored = await bench.result(ids[0])
    assert (stored["epoch"], stored["run_id"], stored["body"]) == (1, run.id, b"answer")
    assert stored["started_at"] is not None


async def test_a_finish_sent_again_after_its_answer_was_lost_stores_nothing_more(
    bench: "Bench",
) -> None:
    await bench.fill(3)
    run = await bench.run()
    claims = await run.claim(3)
    await run.finish(claims)
    assert await run.finish(claims) == [NOT_MINE] * 3
    assert await bench.value("select count(*) from results") == 3
    assert await bench.value("select sum(completed) from deltas") == 3


async def test_a_zombie_under_an_old_epoch_is_dropped(bench: "Bench") -> None:
    """The row was swept and is claimed by another run: both, epoch and owner, are not its own."""
    [identifier] = await bench.fill(1)
    zombie, living = await bench.run(), await bench.run()
    old = await zombie.claim(1)
    await bench.end_process(zombie)
    await sweep_now(bench.lane(), lease_seconds=LEASE_SECONDS, grace_seconds=1)
    new = await living.claim(1)
    assert new[0].epoch > old[0].epoch
    assert await zombie.finish(old) == [NOT_MINE]
    assert await bench.result(identifier) is None
    assert await living.finish(new) == [None]
    assert (await bench.result(identifier))["run_id"] == living.id


async def test_an_answer_of_another_runs_claim_is_dropped(bench: "Bench") -> None:
    await bench.fill(1)
    owner, other = await bench.run(), await bench.run()
    claims = await owner.claim(1)
    assert await other.finish(claims) == [NOT_MINE]
    assert await owner.finish(claims) == [None]


async def test_an_answer_to_a_claim_that_was_handed_back_is_dropped(bench: "Bench") -> None:
    """Also when the same run claims the row a second time."""
    [identifier] = await bench.fill(1)
    run = await bench.run()
    first = await run.claim(1)
    assert await run.finisher.release(run.lane, [(identifier, first[0].epoch)]) == [identifier]
    assert await run.finish(first) == [NOT_MINE]
    second = await run.claim(1)
    assert await run.finish(first) == [NOT_MINE]
    assert (second[0].attempts, second[0].lost) == (0, 0)
    assert await run.finish(second) == [None]


async def test_a_release_of_anothers_claim_changes_nothing(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run, other = await bench.run(), await bench.run()
    await run.claim(1)
    assert await other.finisher.release(other.lane, [(identifier, 1)]) == []
    assert await run.finisher.release(run.lane, [(identifier, 2)]) == []
    assert (await bench.row(identifier))["owner"] == run.id


async def test_a_passing_failure_waits_and_is_kept_as_an_attempt(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    await run.claim(1)
    failure = Failure(id=identifier, epoch=1, delay_seconds=60, error="429\0 from it")
    await run.finisher.retry(run.lane, [failure])
    await run.finisher.retry(run.lane, [failure])
    row = await bench.row(identifier)
    assert (row["state"], row["attempts"], row["owner"]) == (QueueState.BACKING_OFF, 1, None)
    assert await run.claim(1) == []
    attempts = await bench.sql("select epoch, outcome, error from attempts")
    assert [tuple(a) for a in attempts] == [(1, "failed", "429 from it")]


async def test_a_rate_limit_is_kept_and_counts_as_no_attempt(bench: "Bench") -> None:
    limited, failed = await bench.fill(2)
    run = await bench.run()
    await run.claim(2)
    failure = Failure(id=limited, epoch=1, delay_seconds=60, error="429", counts=False)
    await run.finisher.retry(
        run.lane, [failure, Failure(id=failed, epoch=1, delay_seconds=60, error="500")]
    )
    assert (await bench.row(limited))["attempts"] == 0
    assert (await bench.row(failed))["attempts"] == 1
    attempts = await bench.sql("select id, outcome, error from attempts order by id")
    assert [tuple(a) for a in attempts] == [(limited, "limited", "429"), (failed, "failed", "500")]


async def test_how_long_a_request_has_met_rate_limits_is_known(bench: "Bench") -> None:
    """From the first of them on; other failures say nothing of it."""
    limited, failed = await bench.fill(2)
    run = await bench.run()
    await run.claim(2)
    failure = Failure(id=limited, epoch=1, delay_seconds=60, error="429", counts=False)
    await run.finisher.retry(
        run.lane, [failure, Failure(id=failed, epoch=1, delay_seconds=60, error="500")]
    )
    assert not await limited_for(run.lane, limited, 3600)
    await bench.sql("update attempts set ended_at = ended_at - interval '2 hours'")
    assert await limited_for(run.lane, limited, 3600)
    assert not await limited_for(run.lane, limited, 3 * 3600)
    assert not await limited_for(run.lane, failed, 3600)


async def test_a_client_that_comes_back_before_the_finish_commits_is_told_through_it(
    bench: "Bench",
) -> None:
    """The re-attach holds the row; the finish waits, and returns the channel as it is then."""
    [identifier] = await bench.fill(1, channel=new_id())
    run = await bench.run()
    claims = await run.claim(1)
    attaching, finishing = await bench.open_lane(), await bench.open_lane()
    newcomer = new_id()
    assert await attach(attaching, identifier, newcomer)
    finish = asyncio.create_task(run.finish(claims, lane=finishing))
    await bench.until_blocked(finishing.pid)
    await attaching.commit()
    assert await finish == [newcomer]
    await finishing.commit()


async def test_a_client_that_comes_back_during_the_finish_finds_the_stored_result(
    bench: "Bench",
) -> None:
    """The finish holds the row; the re-attach waits, learns that it is gone, and reads."""
    [identifier] = await bench.fill(1, channel=new_id())
    run = await bench.run()
    claims = await run.claim(1)
    attaching, finishing = await bench.open_lane(), await bench.open_lane()
    await run.finish(claims, lane=finishing)
    attached = asyncio.create_task(attach(attaching, identifier, new_id()))
    await bench.until_blocked(attaching.pid)
    await finishing.commit()
    assert await attached is False
    await attaching.commit()
    stored = await result_of(bench.database, identifier)
    assert stored is not None
    assert stored.body == b"answer"


async def test_a_finish_that_is_rolled_back_leaves_the_row_to_the_re_attach(
    bench: "Bench",
) -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(1)
    attaching, finishing = await bench.open_lane(), await bench.open_lane()
    await run.finish(claims, lane=finishing)
    newcomer = new_id()
    attached = asyncio.create_task(attach(attaching, identifier, newcomer))
    await bench.until_blocked(attaching.pid)
    await finishing.rollback()
    assert await attached is True
    await attaching.commit()
    assert await run.finish(claims) == [newcomer]


async def test_of_a_cancel_first_and_a_finish_the_cancel_is_the_result(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(1)
    cancelling, finishing = await bench.open_lane(), await bench.open_lane()
    [ended] = await end_requests(cancelling, [identifier], CANCELLED)
    assert (ended.owner, ended.epoch) == (run.id, 1)
    finish = asyncio.create_task(run.finish(claims, lane=finishing))
    await bench.until_blocked(finishing.pid)
    await cancelling.commit()
    assert await finish == [NOT_MINE]
    await finishing.commit()
    assert await outcomes(bench) == [Outcome.CANCELLED]


async def test_of_a_finish_first_and_a_cancel_the_answer_is_the_result(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    run = await bench.run()
    claims = await run.claim(1)
    cancelling, finishing = await bench.open_lane(), await bench.open_lane()
    assert await run.finish(claims, lane=finishing) == [None]
    cancel = asyncio.create_task(end_requests(cancelling, [identifier], CANCELLED))
    await bench.until_blocked(cancelling.pid)
    await finishing.commit()
    assert await cancel == []
    await cancelling.commit()
    assert await outcomes(bench) == [Outcome.COMPLETED]


async def test_a_row_that_is_cancelled_just_now_is_not_claimed(bench: "Bench") -> None:
    ids = await bench.fill(2)
    run = await bench.run()
    cancelling = await bench.open_lane()
    await end_requests(cancelling, ids[:1], CANCELLED)
    assert [c.id for c in await run.claim(2)] == ids[1:]
    await cancelling.commit()
    assert await run.claim(2) == []


async def test_a_cancel_during_the_claim_ends_the_claimed_row_and_names_its_run(
    bench: "Bench",
) -> None:
    """The claim holds the row; the cancel waits for it, and tells the run that has it."""
    [identifier] = await bench.fill(1)
    run = await bench.run()
    claiming, cancelling = await bench.open_lane(), await bench.open_lane()
    claims = await run.claim(1, lane=claiming)
    cancel = asyncio.create_task(end_requests(cancelling, [identifier], CANCELLED))
    await bench.until_blocked(cancelling.pid)
    await claiming.commit()
    [ended] = await cancel
    await cancelling.commit()
    assert (ended.owner, ended.epoch) == (run.id, claims[0].epoch)
    assert await run.finish(claims) == [NOT_MINE]
    assert await outcomes(bench) == [Outcome.CANCELLED]
    beat = await beat_run(bench.lane(), run.id, [(identifier, 1)])
    assert beat.gone == [identifier]


async def test_cancels_of_another_team_or_twice_end_nothing_more(bench: "Bench") -> None:
    [identifier] = await bench.fill(1)
    assert await end_requests(bench.database, [identifier], CANCELLED, team_id=2) == []
    assert len(await end_requests(bench.database, [identifier], CANCELLED, team_id=1)) == 1
    assert await end_requests(bench.database, [identifier], CANCELLED, team_id=1) == []
    assert await outcomes(bench) == [Outcome.CANCELLED]


async def test_cancels_and_finishes_of_the_same_rows_leave_one_result_each(
    bench: "Bench",
) -> None:
    """A thousand rows, in opposite orders, in groups."""
    from tests.integration.db_fixtures import persist

    ids = await bench.fill(1000)
    run = await bench.run()
    claims = await run.claim(1000)
    canceller = bench.lane()

    async def finish() -> None:
        for start in range(0, 1000, 50):
            await persist(partial(run.finish, claims[start : start + 50]))

    async def cancel() -> None:
        for start in range(0, 1000, 50):
            some = ids[::-1][start : start + 50]
            await persist(partial(end_requests, canceller, some, CANCELLED))

    await asyncio.gather(finish(), cancel())
    assert await bench.value("select count(*) from queue") == 0
    assert await bench.value("select count(*) from results") == 1000
    deltas = (await bench.sql("select sum(completed) as done, sum(cancelled) as c from deltas"))[0]
    assert deltas["done"] + deltas["c"] == 1000


async def test_strays_of_a_claim_whose_answer_was_lost_are_released_by_the_heartbeat(
    bench: "Bench",
) -> None:
    """The claim committed and the run never heard of it; what it holds besides stays its own."""
    ids = await bench.fill(4)
    run = await bench.run()
    held = await run.claim(2)
    await run.claim(2)
    lane = bench.lane()
    known = [(c.id, c.epoch) for c in held]
    await bench.sql("update queue set claimed_at = now() + interval '1 minute'")
    assert (await beat_run(lane, run.id, known)).strays == []
    await bench.sql("update queue set claimed_at = now() - interval '6 seconds'")
    beat = await beat_run(lane, run.id, known)
    assert beat.alive
    assert (sorted(beat.strays), beat.gone) == (ids[2:], [])
    await release_strays(lane, run.id, beat.strays)
    assert [c.id for c in await run.claim(9)] == ids[2:]
    assert await run.finish(held) == [None, None]


async def test_a_stray_that_was_taken_from_the_run_meanwhile_is_not_released(
    bench: "Bench",
) -> None:
    [identifier] = await bench.fill(1)
    run, other = await bench.run(), await bench.run()
    await run.claim(1)
    await bench.end_process(run)
    await sweep_now(bench.lane(), lease_seconds=LEASE_SECONDS, grace_seconds=1)
    await other.claim(1)
    await release_strays(bench.lane(), run.id, [identifier])
    assert (await bench.row(identifier))["owner"] == other.id


async def test_a_run_that_was_ended_learns_so_by_its_heartbeat(bench: "Bench") -> None:
    run = await bench.run()
    lane = bench.lane()
    assert (await beat_run(lane, run.id, [])).alive
    await bench.sql("update runs set ended_at = now()")
    assert not (await beat_run(lane, run.id, [])).alive


async def test_an_answer_that_postgres_refuses_changes_nothing(bench: "Bench") -> None:
    from tests.integration.db_fixtures import result

    await bench.fill(2)
    run = await bench.run()
    claims = await run.claim(2)
    results = [result(claims[0]), result(claims[1], upstream="nul\0")]
    with pytest.raises(asyncpg.DataError):
        await run.finisher.finish(run.lane, results, False)
    assert await bench.value("select count(*) from queue where owner = $1", run.id) == 2
    assert await bench.value("select count(*) from results") == 0


async def outcomes(bench: "Bench") -> list[int]:
    return [row["outcome"] for row in await bench.sql("select outcome from results")]
