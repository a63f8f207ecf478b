"""Identical requests are computed once; whatever ends or dies between, each has one answer."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from carpool.states import Outcome, QueueState
from db.delivery import attach
from db.end import ABANDONED, CANCELLED, CONDEMNED, EXPIRED, end_requests
from db.follow import sweep_followers
from db.submit import submit
from tests.integration.sweeping import sweep_now
from tests.integration.twins import STORED, TWIN, answered, come, states

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)


async def test_the_first_leads_and_all_are_answered_with_it(bench: "Bench") -> None:
    first, second = await come(bench, 2)
    [third] = await come(bench)
    other = (await come(bench, fingerprint=UUID(int=78)))[0]
    assert await states(bench) == [
        (first, QueueState.WAITING, None),
        (second, QueueState.FOLLOWING, first),
        (third, QueueState.FOLLOWING, first),
        (other, QueueState.WAITING, None),
    ]
    run = await bench.run()
    claims = await run.claim(9)
    assert [claim.id for claim in claims] == [first, other]
    await answered(run, claims)
    assert [tuple(row) for row in await bench.sql(STORED)] == [
        (first, 0, 10, 0, 5, 3),
        (second, 0, 0, 15, 0, 0),
        (third, 0, 0, 15, 0, 0),
        (other, 0, 10, 0, 5, 3),
    ]
    assert await states(bench) == []
    assert await bench.value("select sum(completed) from deltas") == 4
    assert await bench.value("select sum(saved_shared) from deltas") == 30


async def test_who_waits_is_told(bench: "Bench") -> None:
    channel = new_id()
    _, second = await come(bench, 2, channel=channel)
    run = await bench.run()
    await answered(run, await run.claim(1))
    [(told, notice)] = run.told
    assert (told, notice.id, notice.outcome) == (channel, second, Outcome.COMPLETED)


async def test_a_failed_leader_wakes_the_followers(bench: "Bench") -> None:
    first, *rest = await come(bench, 3)
    run = await bench.run()
    await answered(run, await run.claim(9), outcome=Outcome.FAILED, status_code=400)
    assert await states(bench) == [(each, QueueState.WAITING, None) for each in rest]
    claims = await run.claim(9)
    assert [claim.id for claim in claims] == rest
    await answered(run, claims)
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {first: 1, rest[0]: 0, rest[1]: 0}


@pytest.mark.parametrize(
    "ending", [CANCELLED, ABANDONED, EXPIRED], ids=["cancelled", "abandoned", "expired"]
)
async def test_a_cancelled_leader_is_computed_on_for_its_followers(
    bench: "Bench", ending: Any
) -> None:
    """Its own answer is that it was ended; the engine's work, and its cost, are theirs."""
    first, second, third = await come(bench, 3)
    run = await bench.run()
    claims = await run.claim(1)
    await bench.sql("update queue set abandon_at = now() where id = $1", first)
    [ended] = await end_requests(bench.database, [first], ending)
    assert (ended.id, ended.owner) == (first, None)
    await answered(run, claims)
    assert [tuple(row) for row in await bench.sql(STORED)] == [
        (first, ending.outcome, 0, 0, 0, 0),
        (second, 0, 10, 0, 5, 3),
        (third, 0, 0, 15, 0, 0),
    ]
    assert await states(bench) == []
    assert await end_requests(bench.database, [first], ending) == []


async def test_a_leader_that_nobody_follows_any_more_is_given_up(bench: "Bench") -> None:
    first, second = await come(bench, 2)
    run = await bench.run()
    [claim] = await run.claim(1)
    await end_requests(bench.database, [first], CANCELLED)
    await end_requests(bench.database, [second], CANCELLED)
    orphans = await sweep_followers(bench.lane())
    assert [(owner, gone.id, gone.epoch) for owner, gone in orphans.gone] == [
        (run.id, first, claim.epoch)
    ]
    assert await states(bench) == []
    assert {row["outcome"] for row in await bench.sql(STORED)} == {2}


async def test_a_follower_is_cancelled_by_itself(bench: "Bench") -> None:
    first, second = await come(bench, 2)
    await end_requests(bench.database, [second], CANCELLED)
    run = await bench.run()
    await answered(run, await run.claim(1))
    assert [(row["id"], row["outcome"]) for row in await bench.sql(STORED)] == [
        (first, 0),
        (second, 2),
    ]


async def test_none_follows_one_that_has_more_time(bench: "Bench") -> None:
    """Which may wait for a cheap window; those that come at once with one span share it still."""
    soon = datetime.now(UTC) + timedelta(minutes=10)
    [patient] = await come(bench)
    [hurried] = await come(bench, deadline=soon)
    [another] = await come(bench)
    assert await states(bench) == [
        (patient, QueueState.WAITING, None),
        (hurried, QueueState.WAITING, None),
        (another, QueueState.FOLLOWING, patient),
    ]
    spans: dict[str, Any] = {"fingerprint": UUID(int=79)}
    [leader] = await come(bench, deadline=soon, **spans)
    [later] = await come(bench, deadline=soon + timedelta(minutes=1), **spans)
    [at_once] = await come(bench, deadline=soon - timedelta(milliseconds=20), **spans)
    assert (await states(bench))[3:] == [
        (leader, QueueState.WAITING, None),
        (later, QueueState.FOLLOWING, leader),
        (at_once, QueueState.FOLLOWING, leader),
    ]


async def test_of_those_that_come_at_once_the_most_hurried_leads(bench: "Bench") -> None:
    from tests.integration.db_fixtures import submission

    soon = datetime.now(UTC) + timedelta(minutes=10)
    patient, hurried = (
        submission(fingerprint=TWIN, shareable=True, deadline=deadline) for deadline in (None, soon)
    )
    await submit(bench.lane(), [patient, hurried], False)
    assert await states(bench) == [
        (patient.id, QueueState.FOLLOWING, hurried.id),
        (hurried.id, QueueState.WAITING, None),
    ]


async def test_no_follower_waits_beyond_its_deadline(bench: "Bench") -> None:
    """It expires by itself, and its leader goes on."""
    now = datetime.now(UTC)
    [first] = await come(bench, deadline=now + timedelta(milliseconds=900))
    [second] = await come(bench, deadline=now)
    [third] = await come(bench, deadline=now + timedelta(hours=1))
    await bench.sql("update queue set deadline = null where id = $1", first)
    found = await sweep_now(bench.lane(), lease_seconds=15, grace_seconds=1)
    assert [ended.id for ended in found.ended] == [second]
    run = await bench.run()
    await answered(run, await run.claim(1))
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {first: 0, second: Outcome.EXPIRED, third: 0}


async def test_a_leader_whose_batch_was_ended_is_computed_for_its_followers(
    bench: "Bench",
) -> None:
    """It is its batch's no more: it waits for nothing but a claim."""
    batch = new_id()
    first, second = await come(bench, 2)
    await bench.sql("update queue set batch_id = $1 where id = $2", batch, first)
    await bench.sql(
        """
        insert into batches (
            id, team_id, key_id, endpoint, completion_window, input_file_id, fingerprint, status,
            expires_at
        )
        values ($1, 1, $1, 0, '24h', 'file', $1, 3, now())
        """,
        batch,
    )
    await end_requests(bench.database, [first], EXPIRED)
    run = await bench.run()
    [claimed] = await run.claim(1)
    assert (claimed.id, claimed.stopped, claimed.deadline) == (first, False, None)
    await answered(run, [claimed])
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {first: Outcome.EXPIRED, second: 0}


async def test_a_leader_that_kills_engines_takes_none_with_it(bench: "Bench") -> None:
    first, second = await come(bench, 2)
    await end_requests(bench.database, [first], CONDEMNED)
    orphans = await sweep_followers(bench.lane())
    assert [bell.model for bell in orphans.waiting] == ["tiny"]
    assert await states(bench) == [(second, QueueState.WAITING, None)]


async def test_what_a_crash_left_between_is_put_right(bench: "Bench") -> None:
    """As if the worker had died when the leader's answer was stored and the followers' not yet."""
    from tests.integration.db_fixtures import result

    first, second = await come(bench, 2)
    run = await bench.run()
    claims = await run.claim(1)
    await bench.sql("update queue set followed = false")
    await run.finisher.finish(run.lane, [result(c) for c in claims], False)
    assert await states(bench) == [(second, QueueState.FOLLOWING, first)]
    orphans = await sweep_followers(bench.lane())
    assert [one.notice.id for one in orphans.answered] == [second]
    assert [(row["id"], row["outcome"]) for row in await bench.sql(STORED)] == [
        (first, 0),
        (second, 0),
    ]


async def test_a_cancelled_leader_that_kills_its_engine_ends_and_the_others_run(
    bench: "Bench",
) -> None:
    """It has its result; what is left to do is to let it go, or it would kill for ever."""
    first, second = await come(bench, 2)
    await end_requests(bench.database, [first], CANCELLED)
    await end_requests(bench.database, [first], CONDEMNED)
    await sweep_followers(bench.database)
    assert await states(bench) == [(second, QueueState.WAITING, None)]
    assert [(row["id"], row["outcome"]) for row in await bench.sql(STORED)] == [(first, 2)]


async def test_no_one_waits_for_a_leader_that_was_cancelled(bench: "Bench") -> None:
    """Who comes back for it is given its end, though it is computed on for the others."""
    first, second = await come(bench, 2)
    assert await attach(bench.database, first, new_id())
    await end_requests(bench.database, [first], CANCELLED)
    assert not await attach(bench.database, first, new_id())
    assert await attach(bench.database, second, new_id())
