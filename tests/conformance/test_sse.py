"""Frames come out whole, wherever the bytes were cut."""

from hypothesis import given
from hypothesis import strategies as st

from workers.backends.sse import DONE, Frame, FrameReader

STREAM = (
    b": hello\n\n"
    b'data: {"a": "\xc3\xa9"}\n\n'
    b"event: error\r\ndata: one\r\ndata: two\r\n\r\n"
    b"id: 7\rdata:three\r\r"
    b"event: empty\n\n"
    b"data: [DONE]\n\n"
)
FRAMES = [
    Frame(b"", b'{"a": "\xc3\xa9"}'),
    Frame(b"error", b"one\ntwo"),
    Frame(b"", b"three"),
    Frame(b"", DONE),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_frames_do_not_depend_on_the_cuts(cuts: list[int]) -> None:
    reader = FrameReader()
    found: list[Frame] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(STREAM)], strict=True):
        found += reader.feed(STREAM[start:end])
    assert found == FRAMES


def test_a_last_frame_without_its_empty_line() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"data: [DONE]")) == []
    assert list(reader.finish()) == [Frame(b"", DONE)]
