"""A run learns who follows its streams, whenever they come; each end says of which claim it is."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from carpool.ids import new_id
from carpool.notices import Lost, led
from carpool.states import Outcome, QueueState
from db.end import INTERRUPTED, end_requests
from db.finish import Failure
from db.follow import Origin, Progress, progress_of, sweep_followers
from db.submit import Submission, submit
from tests.integration.twins import STORED, TWIN, answered, come, states

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

CHUNKS = b"{1}\n{2}\n{3}"


async def test_a_claim_has_those_who_follow_it_and_wait(bench: "Bench") -> None:
    channel = new_id()
    _, *followers = await come(bench, 3, streamed=True, channel=channel)
    await come(bench, streamed=True)
    run = await bench.run()
    [claim] = await run.claim(9)
    assert sorted(claim.followers) == [(follower, channel) for follower in followers]


async def test_a_claim_that_is_no_stream_has_none(bench: "Bench") -> None:
    await come(bench, 3, channel=new_id())
    run = await bench.run()
    [claim] = await run.claim(9)
    assert list(claim.followers) == []


async def test_who_comes_after_the_claim_is_told_which_run_has_it(bench: "Bench") -> None:
    """None is told whose leader waits, who is no stream, or waits for nothing."""
    from tests.integration.db_fixtures import submission

    [leader] = await come(bench, streamed=True, channel=new_id())
    lane = bench.lane()

    def follower(**columns: Any) -> Submission:
        return submission(**({"fingerprint": TWIN, "shareable": True} | columns))

    streamed: dict[str, Any] = {"streamed": True, "channel": new_id()}
    before = await submit(lane, [follower(**streamed)], False)
    run = await bench.run()
    await run.claim(1)
    items = [follower(**streamed), follower(channel=new_id()), follower(streamed=True)]
    after = await submit(lane, items, False)
    assert list(before) == [None]
    assert list(after) == [Origin(leader, run.id), None, None]


async def test_the_progress_of_a_follower_is_its_leaders(bench: "Bench") -> None:
    leader, follower = await come(bench, 2, streamed=True)
    both = [leader, follower]
    waiting = await progress_of(bench.database, both)
    assert waiting == {leader: Progress(0, None), follower: Progress(led(0), None)}
    run = await bench.run()
    await run.claim(1)
    origin = Origin(leader, run.id)
    claimed = await progress_of(bench.database, both)
    assert claimed == {leader: Progress(1, origin), follower: Progress(led(1), origin)}


async def test_a_follower_that_is_woken_has_an_epoch_above_all_of_its_leaders(
    bench: "Bench",
) -> None:
    leader, follower = await come(bench, 2, streamed=True)
    run = await bench.run()
    [first] = await run.claim(1)
    await run.finisher.retry(
        run.lane, [Failure(id=leader, epoch=first.epoch, delay_seconds=0, error="x")]
    )
    await bench.sql("update queue set state = 0, not_before = null where state = 2")
    [second] = await run.claim(1)
    assert (await progress_of(bench.database, [follower]))[follower].epoch == led(2)
    await answered(run, [second], outcome=Outcome.FAILED, status_code=500)
    assert (await progress_of(bench.database, [follower]))[follower].epoch == 0


@pytest.mark.parametrize("begun", [False, True])
async def test_a_leader_that_fails_lets_the_streams_of_its_followers_begin_anew(
    bench: "Bench", begun: bool
) -> None:
    """Later, where it had begun to stream: who has read of it is ended first."""
    channel = new_id()
    _, listening = await come(bench, 2, streamed=True, channel=channel)
    [left] = await come(bench, streamed=True)
    run = await bench.run()
    at = datetime.now(UTC) if begun else None
    failed = {"outcome": Outcome.FAILED, "status_code": 500, "first_token_at": at}
    await answered(run, await run.claim(1), **failed)
    assert run.told_lost == [(channel, Lost(listening, 0))]
    delayed = QueueState.BACKING_OFF if begun else QueueState.WAITING
    assert await states(bench) == [(listening, delayed, None), (left, QueueState.WAITING, None)]


async def test_a_leader_whose_stream_is_interrupted_goes_on_for_its_followers(
    bench: "Bench",
) -> None:
    leader, follower = await come(bench, 2, streamed=True)
    await end_requests(bench.database, [leader], INTERRUPTED)
    run = await bench.run()
    [claim] = await run.claim(9)
    assert claim.id == leader
    await answered(run, [claim])
    outcomes = {row["id"]: row["outcome"] for row in await bench.sql(STORED)}
    assert outcomes == {leader: Outcome.FAILED, follower: Outcome.COMPLETED}


async def test_the_end_of_a_follower_says_what_was_streamed(bench: "Bench") -> None:
    """By its leader's claim, and in so many chunks; also where the sweep ends it."""
    _, follower = await come(bench, 2, streamed=True, channel=new_id())
    run = await bench.run()
    await answered(run, await run.claim(1), body=CHUNKS)
    [(_, notice)] = run.told
    assert (notice.id, notice.epoch, notice.chunks) == (follower, led(1), 3)
    assert (await bench.result(follower))["epoch"] == led(1)


async def test_the_sweep_ends_a_follower_as_its_leaders_run_does(bench: "Bench") -> None:
    leader, follower = await come(bench, 2, streamed=True, channel=new_id())
    run = await bench.run()
    claims = await run.claim(1)
    await bench.sql("update queue set followed = false where id = $1", leader)
    await answered(run, claims, body=CHUNKS)
    [followed] = (await sweep_followers(bench.database)).answered
    notice = followed.notice
    assert (notice.id, notice.epoch, notice.chunks) == (follower, led(1), 3)
