"""However a file is cut into pieces, its lines are the same, and reading may begin anew at any."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.lines import BOM, Line, Lines

LIMIT = 50


def split(data: bytes, cuts: list[int], *, limit: int = LIMIT) -> list[Line]:
    """The lines of data that comes in pieces."""
    lines = Lines(limit_bytes=limit)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [line for a, b in pairwise(places) for line in lines.feed(data[a:b])]
    return [*found, *lines.finish()]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=8)
files = st.lists(st.tuples(texts, st.sampled_from(["\n", "\r\n"])), max_size=20)


@given(files, texts, st.booleans(), st.lists(st.integers(0, 10_000), max_size=12))
def test_lines_are_those_of_the_file(
    ended: list[tuple[str, str]], last: str, marked: bool, cuts: list[int]
) -> None:
    data = "".join(text + end for text, end in ended) + last
    found = split((BOM if marked else b"") + data.encode(), cuts)
    wanted = [
        (number, text.encode().strip())
        for number, text in enumerate([*(text for text, _ in ended), last], 1)
        if text.encode().strip()
    ]
    assert [(line.number, line.text) for line in found] == wanted
    assert not any(line.too_long for line in found)


@given(files, texts, st.integers(0, 30), st.lists(st.integers(0, 10_000), max_size=5))
def test_reading_begins_anew_behind_any_line(
    ended: list[tuple[str, str]], last: str, place: int, cuts: list[int]
) -> None:
    data = ("".join(text + end for text, end in ended) + last).encode()
    whole = split(data, cuts)
    if not whole:
        return
    behind = whole[place % len(whole)]
    again = Lines(limit_bytes=LIMIT, number=behind.number, offset=behind.end)
    rest = [*again.feed(data[behind.end :]), *again.finish()]
    assert rest == whole[place % len(whole) + 1 :]


@pytest.mark.parametrize("size", [1, 7, 49, 1000])
def test_a_line_that_is_too_long_is_cut_and_the_next_is_whole(size: int) -> None:
    data = b"a" * 200 + b"\nshort\n" + b"b" * 50 + b"\n" + b"c" * 51
    lines = Lines(limit_bytes=LIMIT)
    found = [x for i in range(0, len(data), size) for x in lines.feed(data[i : i + size])]
    found += lines.finish()
    assert [(line.number, line.text[:5], line.too_long) for line in found] == [
        (1, b"aaaaa", True),
        (2, b"short", False),
        (3, b"bbbbb", False),
        (4, b"ccccc", True),
    ]
    assert found[-1].end == len(data)


def test_of_a_line_without_end_little_is_kept() -> None:
    lines = Lines(limit_bytes=LIMIT)
    for _ in range(1000):
        assert lines.feed(b"x" * 1000) == []
    [line] = lines.finish()
    assert (len(line.text), line.too_long, line.end) == (LIMIT, True, 1_000_000)
