"""Rows of a provider batch are its own until they are moved; each step is its keeper's alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from carpool.states import Outcome, QueueState
from db import provider_batches as steps
from db.database import Lane
from db.end import CANCELLED, end_requests
from db.finish import NOT_MINE, Failure, Finisher, Result
from db.gathering import durations, paused_models
from db.provider_batches import LostError, ProviderBatch
from tests.integration.provider_batch import (
    BACKEND,
    BATCH,
    LEASE_SECONDS,
    ME,
    OTHER,
    WINDOW,
    gather,
    gathered,
    wanted,
)
from tests.integration.sweeping import sweep_now

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

LAPSE = "update provider_batches set kept_until = now() - interval '1 second' where id = $1"


async def test_members_come_by_their_prefixes_with_their_bodies(bench: "Bench") -> None:
    run = await bench.run()
    keys = [5, -3, 9, 0]
    ids = [(await bench.fill(1, prefix_key=key, body=b"body %d" % key, **BATCH))[0] for key in keys]
    gathering = wanted(3)
    await gather(run, gathering)
    members = await steps.members(run.lane, gathering.id)
    assert [member.id for member in members] == [ids[1], ids[3], ids[0]]
    found = await steps.bodies(run.lane, [member.id for member in members])
    assert found == [(ids[1], b"body -3"), (ids[3], b"body 0"), (ids[0], b"body 5")]


async def test_bodies_come_as_memory_holds_them(bench: "Bench") -> None:
    """At least one, and no page much larger than its limit, however many are asked for."""
    ids = await bench.fill(4, body=b"x" * 3_000_000)
    seen: list[UUID] = []
    while len(seen) < 4:
        page = await steps.bodies(bench.lane(), ids[len(seen) :])
        assert 1 <= len(page) <= 3
        seen += [identifier for identifier, _ in page]
    assert seen == ids


async def test_the_sweep_leaves_rows_of_provider_batches_alone(bench: "Bench") -> None:
    """Not even when the run that gathered them, its process and its keeper are dead."""
    batch = await gathered(bench)
    await bench.sql("update processes set ended_at = now()")
    await bench.sql(LAPSE, batch.id)
    await sweep_now(bench.lane(), lease_seconds=LEASE_SECONDS, grace_seconds=1)
    assert await steps.count_members(bench.lane(), batch.id) == 3


async def test_a_request_that_is_cancelled_leaves_its_provider_batch(bench: "Bench") -> None:
    batch = await gathered(bench)
    lane = bench.lane()
    members = await steps.members(lane, batch.id)
    await end_requests(lane, [member.id for member in members], CANCELLED)
    assert not await steps.any_member(lane, batch.id)


async def test_answers_end_its_rows_once(bench: "Bench") -> None:
    """Also those of a claim before: another epoch is another claim."""
    batch = await gathered(bench)
    lane = bench.lane()
    finisher = Finisher(batch.id, BACKEND, "worker", lambda *_: None)
    first, second, third = await steps.members(lane, batch.id)
    answer = result_of(first)
    assert await finisher.finish(lane, [answer], False) == [None]
    assert await finisher.finish(lane, [answer], False) == [NOT_MINE]
    await finisher.release(lane, [(second.id, second.epoch)])
    assert await finisher.finish(lane, [result_of(second)], False) == [NOT_MINE]
    await finisher.retry(
        lane, [Failure(id=third.id, epoch=third.epoch, delay_seconds=0, error="batch_expired")]
    )
    assert (await bench.row(third.id))["attempts"] == 1
    stored = await bench.result(first.id)
    assert (stored["run_id"], stored["backend"]) == (batch.id, BACKEND)


async def test_the_way_of_a_provider_batch(bench: "Bench") -> None:
    batch, lane = await gathered(bench), bench.lane()
    batch = await steps.measured(lane, ME, batch, lines=2, size=100, tokens=25)
    assert (batch.lines, batch.bytes, batch.tokens, batch.state) == (2, 100, 25, 0)
    batch = await steps.uploaded(lane, ME, batch, "file-1")
    batch = await steps.recalled(lane, ME, batch)
    assert (batch.state, batch.input_file) == (0, None)
    batch = await steps.uploaded(lane, ME, batch, "file-2")
    assert (batch.state, batch.input_file) == (1, "file-2")
    batch = await steps.submitted(lane, ME, batch, "batch_1", "validating")
    assert (batch.state, batch.provider_id) == (2, "batch_1")
    batch = await steps.watched(
        lane, ME, batch, status="completed", output_file="out", error_file=None
    )
    assert (batch.provider_status, batch.output_file) == ("completed", "out")
    with pytest.raises(LostError):  # it owns rows
        await steps.ended(lane, ME, batch, None)
    await bench.sql("delete from queue")
    await steps.ended(lane, ME, batch, None)
    assert (await durations(lane, BACKEND, [WINDOW]))[WINDOW][0] >= 0


Step = Callable[[Lane, UUID, ProviderBatch], Awaitable[Any]]


STEPS: dict[str, tuple[tuple[int, ...], Step]] = {
    "measured": (
        (0,),
        lambda lane, me, batch: steps.measured(lane, me, batch, lines=1, size=1, tokens=1),
    ),
    "uploaded": ((0,), lambda lane, me, batch: steps.uploaded(lane, me, batch, "file")),
    "recalled": ((1,), steps.recalled),
    "submitted": ((1,), lambda lane, me, batch: steps.submitted(lane, me, batch, "id", "status")),
    "watched": (
        (2,),
        lambda lane, me, batch: steps.watched(
            lane, me, batch, status="s", output_file=None, error_file=None
        ),
    ),
    "ended": ((0, 1, 2), lambda lane, me, batch: steps.ended(lane, me, batch, None)),
}


@pytest.mark.parametrize("name", STEPS)
async def test_a_step_is_its_keepers_from_its_state_for_the_time_of_its_lease(
    bench: "Bench", name: str
) -> None:
    leaves, step = STEPS[name]
    batch, lane = await gathered(bench), bench.lane()
    await bench.sql("delete from queue")
    for state in range(4):
        await bench.sql("update provider_batches set state = $1", state)
        with pytest.raises(LostError):
            await step(lane, OTHER, batch)
        await bench.sql(LAPSE, batch.id)
        with pytest.raises(LostError):
            await step(lane, ME, batch)
        await bench.sql("update provider_batches set kept_until = now() + interval '9 minutes'")
        if state not in leaves:
            with pytest.raises(LostError):
                await step(lane, ME, batch)
    await bench.sql("update provider_batches set state = $1, keeper = $2", leaves[-1], ME)
    await step(lane, ME, batch)


async def test_its_keeper_alone_hands_rows_back(bench: "Bench") -> None:
    """One that was stopped while another submitted them does not have them computed twice."""
    batch, lane = await gathered(bench, 3), bench.lane()
    members = await steps.members(lane, batch.id)
    assert await steps.release(lane, OTHER, batch.id, members) == []
    await bench.sql(LAPSE, batch.id)
    assert await steps.release(lane, ME, batch.id, members) == []
    assert await steps.renew(lane, BACKEND, ME, LEASE_SECONDS) == {batch.id}
    second = await bench.open_lane()
    await second.fetch(
        "update provider_batches set keeper = $1, kept_until = now() + interval '9 minutes'", OTHER
    )
    late = asyncio.create_task(steps.release(lane, ME, batch.id, members))
    await bench.blocked_pid()
    await second.commit()
    assert await late == []
    assert await steps.count_members(lane, batch.id) == 3
    assert len(await steps.release(lane, OTHER, batch.id, members[:2])) == 2
    assert await steps.members(lane, batch.id) == members[2:]
    assert [(await bench.row(m.id))["state"] for m in members[:2]] == [QueueState.WAITING] * 2


async def test_what_nobody_keeps_is_adopted_by_one(bench: "Bench") -> None:
    """Not while its lease lasts; at once when it was disowned; by one of two who try together."""
    batch, lane, second = await gathered(bench), bench.lane(), bench.lane()
    me, other, third = [(await bench.run()).id for _ in range(3)]
    await bench.sql("update provider_batches set keeper = $1", me)
    assert await steps.adopt(lane, BACKEND, OTHER, LEASE_SECONDS) == []
    assert await steps.renew(lane, BACKEND, me, LEASE_SECONDS) == {batch.id}
    await steps.disown(lane, BACKEND, me)
    got = await asyncio.gather(
        steps.adopt(lane, BACKEND, other, LEASE_SECONDS),
        steps.adopt(second, BACKEND, third, LEASE_SECONDS),
    )
    assert sorted(len(found) for found in got) == [0, 1]
    assert await steps.renew(lane, BACKEND, me, LEASE_SECONDS) == set()
    assert await steps.adopt(lane, "another", OTHER, LEASE_SECONDS) == []


async def test_what_an_ended_run_kept_is_adopted_before_its_lease_lapses(bench: "Bench") -> None:
    batch, lane = await gathered(bench), bench.lane()
    run = await bench.run()
    await bench.sql("update provider_batches set keeper = $1", run.id)
    await bench.sql("update runs set ended_at = now() where id = $1", run.id)
    assert [b.id for b in await steps.adopt(lane, BACKEND, OTHER, LEASE_SECONDS)] == [batch.id]


async def test_tokens_of_open_batches_add_up(bench: "Bench") -> None:
    first, second, lane = await gathered(bench), await gathered(bench), bench.lane()
    for batch in (first, second):
        await steps.measured(lane, ME, batch, lines=3, size=1, tokens=40)
    assert await steps.open_tokens(lane, first) == 40
    assert await steps.enqueued_tokens(lane, BACKEND, "theirs", but=new_id()) == 80
    await bench.sql("delete from queue")
    await steps.ended(lane, ME, second, f"{steps.NO_ROOM}: Limit: 70 enqueued tokens.")
    assert await steps.open_tokens(lane, first) == 0
    paused = await paused_models(lane, BACKEND, [WINDOW], seconds=60)
    assert paused == {"theirs"}
    assert await paused_models(lane, BACKEND, [WINDOW], seconds=0) == set()
    # It was never at the provider.
    assert await steps.last_refusal(lane, BACKEND, "theirs", [WINDOW]) is None


async def refused(bench: "Bench", tokens: int, error: str) -> None:
    """One of ours that was submitted, and ended with an error."""
    batch, lane = await gathered(bench, 1), bench.lane()
    batch = await steps.measured(lane, ME, batch, lines=1, size=1, tokens=tokens)
    batch = await steps.uploaded(lane, ME, batch, "file")
    batch = await steps.submitted(lane, ME, batch, f"batch_{batch.id}", "validating")
    await bench.sql("delete from queue where owner = $1", batch.id)
    await steps.ended(lane, ME, batch, error)


async def test_the_last_refusal_tells_what_was_enqueued_then(bench: "Bench") -> None:
    """What the provider had beside it counts, what it refused does not; a day later all is over."""
    lane = bench.lane()
    beside = await gathered(bench, 1)
    beside = await steps.measured(lane, ME, beside, lines=1, size=1, tokens=50)
    beside = await steps.uploaded(lane, ME, beside, "file")
    await steps.submitted(lane, ME, beside, "batch_beside", "in_progress")
    await refused(bench, 40, f"{steps.NO_ROOM}: No.")
    await refused(bench, 30, "The provider refused the batch.")
    found = await steps.last_refusal(lane, BACKEND, "theirs", [WINDOW])
    assert found is not None
    assert (found.error, found.tokens) == (f"{steps.NO_ROOM}: No.", 90)
    assert 0 <= found.seconds_ago < 600
    for backend, upstream in ((BACKEND, "another"), ("another", "theirs")):
        assert await steps.last_refusal(lane, backend, upstream, [WINDOW]) is None
    await bench.sql("update provider_batches set ended_at = now() - interval '25 hours'")
    assert await steps.last_refusal(lane, BACKEND, "theirs", [WINDOW]) is None


def result_of(member: steps.Member) -> Result:
    """A success for a member."""
    return Result(
        id=member.id,
        epoch=member.epoch,
        outcome=Outcome.COMPLETED,
        status_code=200,
        body=b"answer",
        attempts=1,
        upstream="theirs",
    )
