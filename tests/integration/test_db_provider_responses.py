"""A provider batch has one response for each row, noted once, until nobody needs it."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from carpool.states import QueueState
from db import provider_batches as steps
from db import provider_responses as responses
from db.end import CANCELLED, end_requests
from db.gathering import durations
from db.provider_batches import LostError, ProviderBatch
from db.provider_responses import Note
from tests.integration.provider_batch import (
    BACKEND,
    BATCH,
    ME,
    OTHER,
    gather,
    gathered,
    wanted,
)

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)


def notes(batch: ProviderBatch, members: list[steps.Member], suffix: str = "") -> list[Note]:
    return [Note(batch.id, m.id, f"resp_{m.id.hex}{suffix}", False) for m in members]


async def test_a_row_is_unsent_until_its_response_is_noted(bench: "Bench") -> None:
    batch, lane = await gathered(bench, 5), bench.lane()
    members = await responses.unsent(lane, batch.id)
    assert members == await steps.members(lane, batch.id)
    assert await responses.unsent(lane, batch.id, but=[members[0].id], limit=2) == members[1:3]
    assert await responses.note(lane, notes(batch, members[:2]), False) == [True, True]
    assert await responses.unsent(lane, batch.id) == members[2:]
    found = await responses.open_responses(lane, batch.id)
    assert {one.member.id: one.response for one in found} == {
        m.id: f"resp_{m.id.hex}" for m in members[:2]
    }
    assert all(0 <= one.age_seconds < 60 for one in found)


async def test_of_two_responses_for_one_row_the_first_is_its_own(bench: "Bench") -> None:
    """Also where two keepers note at one moment; and a note that is repeated is no second one."""
    batch, lane, second = await gathered(bench, 3), bench.lane(), bench.lane()
    members = await steps.members(lane, batch.id)
    assert await responses.note(lane, notes(batch, members[:1]), False) == [True]
    both = await asyncio.gather(
        responses.note(lane, notes(batch, members), False),
        responses.note(second, notes(batch, members, "b"), False),
    )
    assert both[0][0] is True
    assert both[1][0] is False
    for first, other in zip(both[0][1:], both[1][1:], strict=True):
        assert first is not other
    assert await responses.note(lane, notes(batch, members), True) == list(both[0])
    assert len(await responses.open_responses(lane, batch.id)) == 3


async def test_a_response_that_comes_after_the_end_is_one_too_many(bench: "Bench") -> None:
    """Of a keeper that slept for long: nobody would look at it, or let go of it, any more."""
    batch, lane = await gathered(bench, 1), bench.lane()
    members = await steps.members(lane, batch.id)
    await steps.release(lane, ME, batch.id, members)
    await steps.ended(lane, ME, batch, None)
    assert await responses.note(lane, notes(batch, members), False) == [False]
    assert not await responses.any_left(lane, batch.id)


async def test_a_response_whose_row_is_gone_is_to_be_let_go_of(bench: "Bench") -> None:
    """Cancelled, or returned: it is no more of this provider batch."""
    batch, lane = await gathered(bench, 3), bench.lane()
    cancelled, returned, waits = members = await steps.members(lane, batch.id)
    await responses.note(lane, notes(batch, members), False)
    await end_requests(lane, [cancelled.id], CANCELLED)
    await steps.release(lane, ME, batch.id, [returned])
    assert {one.request for one in await responses.unclaimed(lane, batch.id)} == {
        cancelled.id,
        returned.id,
    }
    assert [one.member for one in await responses.open_responses(lane, batch.id)] == [waits]
    await bench.sql("delete from queue")
    assert await responses.any_left(lane, batch.id)
    await responses.forget(lane, batch.id, [m.id for m in members])
    assert not await responses.any_left(lane, batch.id)


async def test_a_row_that_comes_again_has_another_response(bench: "Bench") -> None:
    """Another provider batch's: the note of the one before holds nothing up."""
    batch, lane = await gathered(bench, 1), bench.lane()
    [member] = await steps.members(lane, batch.id)
    await responses.note(lane, notes(batch, [member]), False)
    await steps.release(lane, ME, batch.id, [member])
    run, again = await bench.run(), wanted(background=True)
    assert await gather(run, again) == 1
    found = await steps.find(lane, again.id)
    assert found is not None
    assert found.background
    [member] = await responses.unsent(lane, again.id)
    assert await responses.note(lane, notes(found, [member], "2"), False) == [True]
    assert [one.member.epoch for one in await responses.open_responses(lane, again.id)] == [2]


async def test_rows_are_gathered_as_they_are_marked(bench: "Bench") -> None:
    """A row that was handed back as verbatim goes with those alone, whoever hands it back next."""
    batch, lane = await gathered(bench, 2), bench.lane()
    odd, other = await steps.members(lane, batch.id)
    await steps.release(lane, ME, batch.id, [odd], verbatim=True)
    await steps.release(lane, ME, batch.id, [other])
    run = await bench.run()
    for verbatim, row in ((True, odd), (False, other)):
        gathering = wanted(verbatim=verbatim)
        assert await gather(run, gathering) == 1
        [member] = await steps.members(lane, gathering.id)
        assert member.id == row.id
        await steps.release(lane, ME, gathering.id, [member])
    assert [(await bench.row(m.id))["verbatim"] for m in (odd, other)] == [True, False]
    assert (await bench.row(odd.id))["state"] == QueueState.WAITING


async def test_it_begins_once_and_ends_when_nothing_is_left(bench: "Bench") -> None:
    run, gathering, lane = await bench.run(), wanted(background=True, window="8h"), bench.lane()
    await bench.fill(2, **BATCH)
    await gather(run, gathering)
    batch = await steps.find(lane, gathering.id)
    assert batch is not None
    with pytest.raises(LostError):
        await steps.begun(lane, OTHER, batch, status="in_progress", lines=2)
    begun = await steps.begun(lane, ME, batch, status="in_progress", lines=2)
    assert (begun.state, begun.provider_status, begun.lines) == (2, "in_progress", 2)
    assert begun.submitted_at is not None
    with pytest.raises(LostError):
        await steps.begun(lane, ME, batch, status="in_progress", lines=2)
    await bench.sql("delete from queue")
    begun = await steps.watched(
        lane, ME, begun, status="completed", output_file=None, error_file=None
    )
    await steps.ended(lane, ME, begun, None)
    assert (await durations(lane, BACKEND, ["8h", "24h"]))["8h"][0] >= 0
