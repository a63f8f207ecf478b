"""A stream's chunks go to all who read it: each gets what it lacks, and then what comes."""

import asyncio
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

import pytest

from carpool.doorbell import Doorbell
from carpool.ids import new_id
from carpool.notices import MAX_INLINE_BYTES, Delta, Notice, Reads, Source, led
from carpool.settings import SIMULATED_MODEL, Settings
from db.claim import Claim
from db.database import Database
from db.finish import Finisher
from workers import executor as executors
from workers.backends.protocol import Answer, Backend, Call, Emit
from workers.executor import Executor, Watching
from workers.run import Run
from workers.streaming import Stream

SOURCE = Source(SIMULATED_MODEL, "tiny")
CHANNEL, OTHER = new_id(), new_id()


class Heard(Doorbell):
    """Keeps what is put to it."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1", timeout_seconds=1)
        self.deltas: list[tuple[UUID, Delta]] = []

    def notify(self, channel: UUID, notice: Notice) -> None:
        assert isinstance(notice, Delta)
        self.deltas.append((channel, notice))


class Endless:
    """A backend that says one chunk, and never comes to an end."""

    name = SIMULATED_MODEL
    capacity = 8

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def answer(self, call: Call, emit: Emit) -> Answer:
        emit(b"1")
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def figures(self) -> None:
        return None


class Watched:
    """The run, as far as an executor of what never ends needs it."""

    id = new_id()

    def freed(self) -> None:
        pass


def claimed(**columns: Any) -> Claim:
    values: dict[str, Any] = {
        "id": new_id(),
        "epoch": 1,
        "team_id": 1,
        "service_class": 0,
        "endpoint": 0,
        "model": "tiny",
        "streamed": True,
        "attempts": 0,
        "lost": 0,
        "channel": CHANNEL,
        "prefix_key": 0,
        "share": None,
        "rank": 0,
        "batch_id": None,
        "deadline": None,
        "upstream": "tiny",
        "body": b"{}",
        "stopped": False,
    }
    return Claim(**(values | columns))


def executor(doorbell: Doorbell, backend: Endless) -> Executor:
    return Executor(
        Settings(),
        Database("postgresql://nobody@127.0.0.1:1/none"),
        doorbell,
        cast(Backend, backend),
        Finisher(Watched.id, backend.name, "worker", doorbell.notify),
        cast(Watching, Watched()),
    )


async def begun(under_test: Executor, backend: Endless, claim: Claim) -> None:
    """Begin to execute a claim, and end it behind its first chunk."""
    backend.asked.clear()
    task = asyncio.create_task(under_test.execute(claim))
    await backend.asked.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_who_is_heard_of_before_the_claim_reads_it() -> None:
    """Its channel is that of the claim where the claim names it: it may have changed meanwhile."""
    doorbell, backend = Heard(), Endless()
    known, new = new_id(), new_id()
    claim = claimed(followers=[(known, CHANNEL)])
    under_test = executor(doorbell, backend)
    for request in (claim.id, known, new):
        under_test.read(Reads(claim.id, request, OTHER))
    await begun(under_test, backend, claim)
    told = {delta.id: (channel, delta.epoch) for channel, delta in doorbell.deltas}
    assert told == {claim.id: (CHANNEL, 1), known: (CHANNEL, led(1)), new: (OTHER, led(1))}


async def test_of_claims_that_never_come_not_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "MOST_EARLY", 2)
    doorbell, backend = Heard(), Endless()
    under_test = executor(doorbell, backend)
    claims = [claimed(channel=None) for _ in range(3)]
    for claim in claims:
        under_test.read(Reads(claim.id, new_id(), OTHER))
    for claim in claims:
        await begun(under_test, backend, claim)
    assert len(doorbell.deltas) == 2


async def test_who_lacks_very_much_gets_it_in_parts() -> None:
    """Redis cuts an API process off that has too much to read at once, and all its streams."""
    doorbell = Heard()
    claim = claimed(channel=None)
    stream = Stream(doorbell, claim, SOURCE)
    chunk = b"x" * (MAX_INLINE_BYTES // 4)
    for _ in range(10):
        stream.emit(chunk)
    reader, taken = new_id(), 0
    while taken < 10:
        stream.read(Reads(claim.id, reader, OTHER, taken))
        _, delta = doorbell.deltas[-1]
        assert delta.offset == taken
        assert 0 < len(delta.chunks) <= 4
        taken += len(delta.chunks)
    stream.emit(b"y" * MAX_INLINE_BYTES * 2)
    stream.read(Reads(claim.id, reader, OTHER, taken))
    assert len(doorbell.deltas[-1][1].chunks) == 1


async def test_a_run_drained_again_as_soon_as_it_is_resumed_still_answers_what_it_holds() -> None:
    run = Run(
        Settings(),
        Database("postgresql://nobody@127.0.0.1:1/none"),
        Heard(),
        cast(Backend, Endless()),
        new_id(),
    )
    holds = asyncio.create_task(asyncio.Event().wait())
    claim = claimed()
    run._held[claim.id] = (claim, cast("asyncio.Task[None]", holds))
    run.drain()
    waits = asyncio.create_task(run._answered())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    run.resume()
    run.drain()
    assert not await waits
    holds.cancel()
