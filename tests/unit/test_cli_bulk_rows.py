"""Every row of a file is read, or told with its line; nothing of it is guessed."""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bulk.faults import MAX_FAULTS, BadInput, Faults, printable
from cli.bulk.rows import Kind, Row, kind_of, read_rows

REQUEST = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}'
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=8)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


def rows(tmp_path: Path, name: str, content: bytes) -> list[Row]:
    path = tmp_path / name
    path.write_bytes(content)
    faults = Faults(path)
    found = list(read_rows(path, kind_of(path), faults))
    faults.check()
    return found


def fields(tmp_path: Path, name: str, content: bytes) -> list[dict[str, Any]]:
    return [row.fields for row in rows(tmp_path, name, content)]


def refused(tmp_path: Path, name: str, content: bytes) -> str:
    with pytest.raises(BadInput) as raised:
        rows(tmp_path, name, content)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", b"x\n", Kind.CSV),
        ("a.CSV", b"x\n", Kind.CSV),
        ("a.txt", b"{}\n", Kind.TEXT),
        ("a.jsonl", b'{"prompt":"x"}\n', Kind.JSONL),
        ("a.ndjson", b'"x"\n', Kind.JSONL),
        ("a.jsonl", b"", Kind.JSONL),
        ("a.jsonl", b"not json\n", Kind.JSONL),
        ("a.jsonl", b"\xef\xbb\xbf\r\n\n" + REQUEST, Kind.REQUESTS),
        ("a.jsonl", b'{"custom_id":"a","body":"Dear Sir,"}\n', Kind.JSONL),
    ],
)
def test_the_kind_is_told_by_name_and_first_line(
    tmp_path: Path, name: str, content: bytes, kind: Kind
) -> None:
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) is kind


def test_a_name_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    assert r"must end in .jsonl, .ndjson, .csv or .txt" in refused(tmp_path, "a.xlsx", b"x")


def test_jsonl_with_bom_crlf_blank_lines_and_no_last_newline(tmp_path: Path) -> None:
    found = rows(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a":1}\r\n\r\n  \n"text"\n\n{"b":null}')
    assert [(row.number, row.line, row.fields) for row in found] == [
        (1, 1, {"a": 1}),
        (2, 4, {"text": "text"}),
        (3, 6, {"b": None}),
    ]


def test_requests_are_kept_as_they_stand(tmp_path: Path) -> None:
    spaced = REQUEST.replace(b":", b" : ")
    found = rows(tmp_path, "a.jsonl", b"\n" + spaced + b"\r\n" + REQUEST)
    assert [(row.line, row.text) for row in found] == [(2, spaced), (3, REQUEST)]


def test_every_broken_line_is_told(tmp_path: Path) -> None:
    told = refused(tmp_path, "a.jsonl", b'"a"\n{"a":\n"\xff"\n[1]\n3\n"\\ud800"\n"fine"\n')
    assert told.splitlines() == [
        f"{tmp_path / 'a.jsonl'} cannot be submitted:",
        "  line 2: is not JSON (and 1 more line)",
        "  line 3: is not UTF-8 (0xff in the middle of it)",
        "  line 4: is neither a JSON object nor a JSON string (and 1 more line)",
    ]


def test_json_that_is_too_deep_is_told(tmp_path: Path) -> None:
    assert "line 1: is not JSON" in refused(tmp_path, "a.jsonl", b"[" * 100_000)


def test_text_keeps_its_blanks(tmp_path: Path) -> None:
    found = fields(tmp_path, "a.txt", b"\xef\xbb\xbf one \r\n\t\n\rtwo\x00\n{x}")
    assert found == [{"text": " one "}, {"text": "\rtwo\0"}, {"text": "{x}"}]


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    assert "line 2: is not UTF-8 (0xe4 " in refused(tmp_path, "a.txt", b"one\ntw\xe4lf\n")


def test_csv_cells_keep_newlines_quotes_and_commas(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfid,text\r\n1,"a\r\nb ""c"", d"\r\n\r\n2,\n3," x "'
    found = rows(tmp_path, "a.csv", content)
    assert [(row.number, row.line, row.fields) for row in found] == [
        (1, 2, {"id": "1", "text": 'a\r\nb "c", d'}),
        (2, 5, {"id": "2", "text": ""}),
        (3, 6, {"id": "3", "text": " x "}),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n3\n", "line 3: has 1 cells where the header has 2"),
        (b"a,b\n1,2,3\n", "line 2: has 3 cells where the header has 2"),
        (b'a,b\n1,"2\n\n3\n', "line 2: is not CSV: "),
        (b'a,b\n1,"2"x\n', "line 2: is not CSV: "),
        (b"a,b,a\n1,2,3\n", "line 1: the header names 'a' more than once"),
        (b'a\n"x\n\xff"\n', "line 3: is not UTF-8"),
    ],
)
def test_broken_csv_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    assert told in refused(tmp_path, "a.csv", content)


def test_a_cell_may_be_large(tmp_path: Path) -> None:
    cell = "x" * 1_000_000
    assert fields(tmp_path, "a.csv", f"a\n{cell}\n".encode()) == [{"a": cell}]


def test_no_more_faults_than_a_person_reads(tmp_path: Path) -> None:
    content = "a\n" + "".join("," * number + "\n" for number in range(1, 1000))
    assert refused(tmp_path, "a.csv", content.encode()).count("\n") == MAX_FAULTS


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.data())
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    names[0] = names[0].removeprefix("\ufeff") or "x"
    cells = st.lists(TEXTS, min_size=len(names), max_size=len(names))
    written = data.draw(st.lists(cells, max_size=6))
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([names, *written])
    directory = tmp_path_factory.mktemp("csv")
    found = fields(directory, "a.csv", text.getvalue().encode())
    if len(set(names)) == len(names):
        assert found == [dict(zip(names, row, strict=True)) for row in written]


@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.none())))
def test_what_is_written_as_jsonl_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    content = b"\n".join(map(msgspec.json.encode, written))
    assert fields(tmp_path_factory.mktemp("jsonl"), "a.jsonl", content) == written


@given(st.lists(PLAIN.filter(lambda text: text.encode().strip() and text[0] != "\ufeff")))
def test_what_is_written_as_text_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: list[str]
) -> None:
    content = "\n".join(written).encode()
    found = fields(tmp_path_factory.mktemp("text"), "a.txt", content)
    assert found == [{"text": text} for text in written]


@given(TEXTS)
def test_nothing_printed_commands_the_terminal(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in printable(text))


def test_printable_text_stays() -> None:
    assert printable("Ä [b] 'x'\n") == "Ä [b] 'x'\n"
    assert printable("a\x1b[31m\r") == "a\\x1b[31m\\r"
