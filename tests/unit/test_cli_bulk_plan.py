"""A file is split into parts that keep to the limits, and together are the file."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bulk.faults import BadInput
from cli.bulk.options import Options
from cli.bulk.plan import Limits, PartFiles, make_plan
from cli.bulk.source import Source, settled

BYTES = 200_000_000
LIMITS = Limits(requests=50_000, bytes=BYTES)


def source(path: Path, content: bytes, **options: str) -> Source:
    path.write_bytes(content)
    requests = content.startswith(b'{"custom_id"')
    kind, given = settled(path, Options(model=None if requests else "m", **options))  # type: ignore[arg-type]
    return Source(path, kind, given)


def request(custom_id: str) -> bytes:
    return b'{"custom_id":"%b","method":"POST","url":"/v1/embeddings","body":{}}\n' % (
        custom_id.encode()
    )


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    requests=st.integers(1, 8),
    most=st.integers(600, 2000),
)
def test_the_parts_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], requests: int, most: int
) -> None:
    directory = tmp_path_factory.mktemp("plan")
    found = source(directory / "a.txt", "\n".join("x" * size for size in sizes).encode())
    limits = Limits(requests=requests, bytes=most)
    plan = make_plan(found, limits)
    whole = [request.line for request in found.requests()]
    assert plan.requests == len(whole) == sum(part.requests for part in plan.parts)
    assert [part.number for part in plan.parts] == list(range(1, len(plan.parts) + 1))
    for part, before in zip(plan.parts, plan.before, strict=True):
        lines = whole[before : before + part.requests]
        assert 0 < len(lines) <= requests
        assert len(b"".join(lines)) == part.bytes <= most
        assert sha256(b"".join(lines)).hexdigest() == part.sha256
        if before + part.requests < len(whole):
            following = whole[before + part.requests]
            assert len(lines) == requests or part.bytes + len(following) > most


@given(wanted=st.sets(st.integers(0, 4)))
def test_part_files_are_written_though_some_are_passed_over(
    tmp_path_factory: pytest.TempPathFactory, wanted: set[int]
) -> None:
    directory = tmp_path_factory.mktemp("parts")
    found = source(directory / "a.txt", b"\n".join(b"%d" % number for number in range(9)))
    plan = make_plan(found, Limits(requests=2, bytes=BYTES))
    files = PartFiles(found, plan.parts)
    for place in sorted(wanted):
        files.write(plan.parts[place], directory / "part")
        written = (directory / "part").read_bytes()
        assert sha256(written).hexdigest() == plan.parts[place].sha256


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    found = source(tmp_path / "a.txt", b"one\ntwo\n")
    plan = make_plan(found, LIMITS)
    (tmp_path / "a.txt").write_bytes(b"one\nTWO\n")
    with pytest.raises(BadInput, match="has changed"):
        PartFiles(found, plan.parts).write(plan.parts[0], tmp_path / "part")


def test_a_request_over_the_limit_is_told_with_its_line(tmp_path: Path) -> None:
    content = b"short\n\n" + b"x" * 900 + b"\nshort\n"
    with pytest.raises(BadInput, match=r"line 3: becomes a request of more than 900 bytes"):
        make_plan(source(tmp_path / "a.txt", content), Limits(requests=50_000, bytes=900))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"has no row"):
        make_plan(source(tmp_path / name, b"\n\r\n"), LIMITS)


def test_duplicate_custom_ids_are_told_with_their_lines(tmp_path: Path) -> None:
    content = b"".join(map(request, ["a", "b", "a", "c", "b"]))
    with pytest.raises(BadInput) as raised:
        make_plan(source(tmp_path / "a.jsonl", content), Limits(requests=1, bytes=BYTES))
    assert str(raised.value).splitlines()[1:] == [
        "  line 3: the custom_id 'a' stands in an earlier line as well",
        "  line 5: the custom_id 'b' stands in an earlier line as well",
    ]


def test_own_custom_ids_are_found(tmp_path: Path) -> None:
    plan = make_plan(
        source(tmp_path / "a.jsonl", b"".join(map(request, ["b", "a", "row-1"]))), LIMITS
    )
    assert [plan.place(name) for name in ("b", "a", "row-1", "c")] == [0, 1, 2, None]


@pytest.mark.parametrize(
    "name",
    ["row-0", "row-21", "row-", "row--1", "row-x", "2", "row-" + "1" * 5000, "row-²", "row-01"],
)
def test_a_custom_id_that_was_not_made_is_none(tmp_path: Path, name: str) -> None:
    plan = make_plan(source(tmp_path / "a.txt", b"one\ntwo\n" * 10), LIMITS)
    assert plan.place("row-3") == 2
    assert plan.place(name) is None


def test_columns_are_all_fields_in_the_order_of_their_appearance(tmp_path: Path) -> None:
    content = b'{"text":"x","b":1}\n{"a":1,"text":"y"}\n'
    assert make_plan(source(tmp_path / "a.jsonl", content), LIMITS).columns == ("text", "b", "a")
