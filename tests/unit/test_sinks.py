"""A stream's client reads the chunks of exactly one claim, in order, from the first one on."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.sinks import AnswerSink, StreamSink
from carpool.ids import new_id
from carpool.notices import Delta, Finished, Lost, led
from carpool.states import Outcome
from db.results import Stored

ID = new_id()
EPOCHS = (led(1), led(2), 1, 2, 3, 4)
"""Those of a leader, and those of its own."""
CHUNKS = {epoch: [b"%d:%d" % (epoch, place) for place in range(6)] for epoch in EPOCHS}
"""What each claim says, each chunk unlike all others."""

epochs = st.sampled_from(EPOCHS)


def delta(epoch: int, begin: int, end: int) -> Delta:
    return Delta(ID, epoch, begin, CHUNKS[epoch][begin:end])


def finished(epoch: int, outcome: Outcome = Outcome.COMPLETED) -> Finished:
    return Finished(ID, epoch, outcome, 200, None, len(CHUNKS[epoch]))


def stored(epoch: int, outcome: Outcome = Outcome.COMPLETED) -> Stored:
    return Stored(ID, epoch, outcome, 200, True, b"\n".join(CHUNKS[epoch]))


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    begin, end = sorted((draw(st.integers(0, 6)), draw(st.integers(0, 6))))
    return delta(draw(epochs), begin, end)


Heard = Delta | Lost | Finished | Stored | int | None
"""A notice, a stored result, the epoch that a poll found, or None: the client reads."""


@st.composite
def interleavings(draw: st.DrawFn) -> list[Heard]:
    """Whatever may be heard of a request that the claim ``winner`` answers."""
    winner = draw(epochs)
    outcome = draw(st.sampled_from([Outcome.COMPLETED, Outcome.FAILED]))
    heard = st.one_of(
        st.none(),
        deltas(),
        st.builds(Lost, st.just(ID), epochs),
        epochs,
        st.just(finished(winner, outcome)),
        st.just(stored(winner, outcome)),
    )
    return draw(st.lists(heard, max_size=30))


class Client:
    """Reads a sink as the stream's response does."""

    def __init__(self) -> None:
        self.sink = StreamSink()
        self.read: list[bytes] = []
        self.over = False

    def hear(self, heard: Heard) -> None:
        match heard:
            case Stored():
                self.sink.stored(heard)
            case int():
                self.sink.claimed_anew(heard)
            case None:
                self.look()
            case _:
                self.sink.hear(heard)

    def look(self) -> None:
        if self.over:
            return
        if self.sink.lacks_chunks:
            assert self.sink.end is not None
            self.sink.stored(stored(self.sink.end.epoch))
        self.sink.catch_up()
        self.read += self.sink.ready
        self.sink.ready.clear()
        self.over = self.sink.interrupted or self.sink.end is not None


@given(interleavings())
@example([delta(1, 0, 2), delta(2, 0, 3), finished(2), None])
@example([delta(1, 0, 2), stored(2), None])
@example([delta(1, 2, 4), delta(2, 0, 2), finished(2), None])
@example([delta(led(1), 0, 2), 0, delta(1, 0, 6), finished(1), None])
@example([delta(led(1), 0, 2), stored(led(2)), None])
@example([delta(2, 0, 2), delta(1, 0, 6), delta(2, 2, 6), finished(2), None])
@example([2, delta(1, 0, 6), delta(2, 0, 6), finished(2), None])
def test_what_is_read_is_the_beginning_of_one_claim(sequence: list[Heard]) -> None:
    client = Client()
    for heard in sequence:
        client.hear(heard)
        read = [*client.read, *client.sink.ready]
        assert any(read == chunks[: len(read)] for chunks in CHUNKS.values())
    client.look()
    end = client.sink.end
    if end is not None and end.outcome == Outcome.COMPLETED and not client.sink.interrupted:
        assert client.read == CHUNKS[end.epoch]


@st.composite
def repeated(draw: st.DrawFn) -> list[Delta]:
    """One claim's chunks in order, cut anyhow, any part of it heard again."""
    cuts = [0, *sorted(draw(st.sets(st.integers(1, 5)))), 6]
    parts = [delta(1, begin, end) for begin, end in pairwise(cuts)]
    heard: list[Delta] = []
    for place, part in enumerate(parts):
        heard.append(part)
        heard += draw(st.lists(st.sampled_from(parts[: place + 1]), max_size=2))
    return heard


@given(repeated())
def test_chunks_that_come_in_order_need_nothing_stored(sequence: list[Delta]) -> None:
    sink = StreamSink()
    for part in sequence:
        sink.hear(part)
    sink.hear(finished(1))
    assert not sink.lacks_chunks
    assert list(sink.ready) == CHUNKS[1]


def test_a_gap_is_filled_from_what_is_stored() -> None:
    client = Client()
    for heard in (delta(1, 0, 2), delta(1, 3, 5), None):
        client.hear(heard)
    assert client.read == CHUNKS[1][:2]
    client.hear(finished(1))
    assert client.sink.lacks_chunks
    client.look()
    assert client.read == CHUNKS[1]


def test_what_a_gap_left_out_is_asked_for_and_read() -> None:
    client = Client()
    assert client.sink.lacks_from == 0
    for heard in (delta(1, 0, 2), None):
        client.hear(heard)
    assert client.sink.lacks_from is None
    client.hear(delta(1, 3, 5))
    assert client.sink.lacks_from == 2
    client.hear(delta(1, 2, 5))
    assert client.sink.lacks_from is None
    for heard in (delta(1, 5, 6), finished(1)):
        client.hear(heard)
    assert not client.sink.lacks_chunks
    assert client.sink.lacks_from is None
    client.look()
    assert client.read == CHUNKS[1]


@pytest.mark.parametrize(
    ("read", "newer"),
    [
        (1, Lost(ID, 2)),
        (1, delta(2, 0, 1)),
        (1, 2),
        (led(1), delta(led(2), 0, 1)),
        (led(1), led(2)),
        (led(2), 0),
        (led(2), delta(1, 0, 1)),
    ],
)
def test_a_newer_claim_interrupts_what_was_read(read: int, newer: Heard) -> None:
    client = Client()
    client.hear(delta(read, 0, 1))
    client.sink.event.clear()
    client.hear(newer)
    assert client.sink.interrupted
    assert client.sink.event.is_set()


def test_a_newer_claim_begins_anew_what_nobody_read() -> None:
    client = Client()
    for heard in (Lost(ID, 2), delta(1, 0, 6), delta(2, 0, 6), finished(2), None):
        client.hear(heard)
    assert client.read == CHUNKS[2]
    assert not client.sink.interrupted


def test_an_older_claim_is_not_heard() -> None:
    client = Client()
    for heard in (delta(2, 0, 1), delta(1, 0, 6), Lost(ID, 1), 1, delta(2, 1, 6), finished(2)):
        client.hear(heard)
    client.look()
    assert client.read == CHUNKS[2]


async def test_an_answer_is_the_first_end_that_comes() -> None:
    end, result = finished(3), stored(3)
    sink = AnswerSink()
    sink.hear(delta(1, 0, 6))
    sink.hear(Lost(ID, 2))
    sink.claimed_anew(3)
    assert not sink.future.done()
    sink.hear(end)
    sink.stored(result)
    sink.give_up()
    assert await sink.future is end


async def test_who_gives_up_gets_nothing() -> None:
    sink = AnswerSink()
    asyncio.get_running_loop().call_soon(sink.give_up)
    assert await sink.future is None
    sink.hear(finished(1))
    assert sink.future.result() is None
