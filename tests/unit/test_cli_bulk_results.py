"""The final file has each row once, in its order, with what became of it."""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bulk.ending import exit_code, refusal
from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.options import Options
from cli.bulk.partial import opened_partial
from cli.bulk.plan import Limits, make_plan
from cli.bulk.results import Result, Tally, joined, write_results
from cli.bulk.source import Source, settled

BYTES = 200_000_000
LIMITS = Limits(requests=50_000, bytes=BYTES)

USAGE = {"total_tokens": 3}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def chat(custom_id: str, content: Any, status: int = 200) -> dict[str, Any]:
    body: dict[str, Any] = {"choices": [{"message": {"content": content}}], "usage": USAGE}
    if status != 200:
        body = {"error": {"message": content, "code": "c"}}
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def unanswered(custom_id: str, code: str) -> dict[str, Any]:
    error = {"code": code, "message": "No."}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": None, "error": error}


def written(
    directory: Path, name: str, content: bytes, results: list[dict[str, Any]], output: str
) -> tuple[bytes, Tally]:
    """The final file of an input file and results in any order."""
    path = directory / name
    path.write_bytes(content)
    kind, options = settled(path, Options(model=None if b'"custom_id"' in content else "m"))
    source = Source(path, kind, options)
    with opened_partial(directory / "partial") as partial:
        partial.append(b"".join(msgspec.json.encode(result) + b"\n" for result in results))
        plan = make_plan(source, Limits(requests=3, bytes=BYTES))
        tally = write_results(directory / output, source, plan, partial)
    return (directory / output).read_bytes(), tally


def objects(content: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in content.splitlines()]


def test_rows_are_joined_to_their_answers(tmp_path: Path) -> None:
    results = [
        unanswered("row-4", "batch_expired"),
        chat("row-2", "Slow down.", status=429),
        chat("row-1", "Hello"),
    ]
    content, tally = written(
        tmp_path, "a.jsonl", b'{"text":"a","n":1.50}\n"b"\n\n"c"\n"d"\n', results, "out.jsonl"
    )
    assert objects(content) == [
        {
            "text": "a",
            "n": 1.5,
            "custom_id": "row-1",
            "answer": "Hello",
            "error": None,
            "usage": USAGE,
        },
        {
            "text": "b",
            "custom_id": "row-2",
            "answer": None,
            "error": {"code": "c", "message": "Slow down.", "status_code": 429},
            "usage": None,
        },
        {
            "text": "c",
            "custom_id": "row-3",
            "answer": None,
            "error": {
                "code": "no_result",
                "message": "The batch has ended without a result for this.",
            },
            "usage": None,
        },
        {
            "text": "d",
            "custom_id": "row-4",
            "answer": None,
            "error": {"code": "batch_expired", "message": "No."},
            "usage": None,
        },
    ]
    assert tally == Tally(succeeded=1, failed=1, unfinished=2)


def test_lines_of_a_file_in_openais_format_stay_as_they_came(tmp_path: Path) -> None:
    content = b"".join(
        b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":{}}\n' % name
        for name in (b"z", b"a")
    )
    results = [chat("a", "1"), unanswered("z", "batch_cancelled")]
    found, tally = written(tmp_path, "a.jsonl", content, results, "out.jsonl")
    assert objects(found) == results[::-1]
    assert tally == Tally(succeeded=1, unfinished=1)


def test_csv_goes_out_as_csv(tmp_path: Path) -> None:
    content = b'id,text\n1,"a\n""b"""\n2,c\n'
    results = [chat("row-2", "No.", status=400), chat("row-1", 'x, "y"\nz')]
    found, _ = written(tmp_path, "a.csv", content, results, "out.csv")
    assert list(csv.DictReader(io.StringIO(found.decode(), newline=""))) == [
        {
            "id": "1",
            "text": 'a\n"b"',
            "custom_id": "row-1",
            "answer": 'x, "y"\nz',
            "error": "",
            "usage": '{"total_tokens":3}',
        },
        {
            "id": "2",
            "text": "c",
            "custom_id": "row-2",
            "answer": "",
            "error": "No.",
            "usage": "",
        },
    ]


def test_rows_of_different_fields_go_out_as_csv(tmp_path: Path) -> None:
    content = b'{"text":"a","n":1}\n{"text":"b","o":{"p":null}}\n'
    results = [chat("row-1", "1"), chat("row-2", "2")]
    found, _ = written(tmp_path, "a.jsonl", content, results, "out.csv")
    rows = list(csv.reader(io.StringIO(found.decode(), newline="")))
    assert rows[0] == ["text", "n", "o", "custom_id", "answer", "error", "usage"]
    assert [row[:3] for row in rows[1:]] == [["a", "1", ""], ["b", "", '{"p":null}']]


@given(
    answers=st.lists(TEXTS, min_size=1, max_size=12).flatmap(
        lambda texts: st.tuples(st.just(texts), st.permutations(range(len(texts))))
    ),
    suffix=st.sampled_from(["jsonl", "csv"]),
)
def test_every_row_gets_its_own_answer_in_whatever_order_they_come(
    tmp_path_factory: pytest.TempPathFactory, answers: tuple[list[str], list[int]], suffix: str
) -> None:
    texts, order = answers
    content = b"\n".join(msgspec.json.encode({"text": text}) for text in texts)
    results = [chat(f"row-{place + 1}", texts[place]) for place in order]
    found, tally = written(
        tmp_path_factory.mktemp("join"), "a.jsonl", content, results, f"out.{suffix}"
    )
    rows = (
        objects(found)
        if suffix == "jsonl"
        else list(csv.DictReader(io.StringIO(found.decode(), newline="")))
    )
    assert [(row["custom_id"], row["text"], row["answer"]) for row in rows] == [
        (f"row-{number}", text, text) for number, text in enumerate(texts, 1)
    ]
    assert tally == Tally(succeeded=len(texts))


def test_input_fields_that_are_named_like_ours_are_kept() -> None:
    result = msgspec.convert(chat("row-1", "A"), Result)
    found = joined({"answer": "mine", "custom_id": "x", "text": "t"}, result)
    assert found["input_answer"] == "mine"
    assert found["input_custom_id"] == "x"
    assert (found["text"], found["custom_id"], found["answer"]) == ("t", "row-1", "A")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"choices": [{"text": "A"}, {"text": "B"}]}, "A"),
        ({"data": [{"embedding": [0.5, 1]}]}, [0.5, 1]),
        ({"choices": [{"message": {"content": None}}]}, None),
        ({"choices": []}, None),
        ({}, None),
    ],
)
def test_the_answer_is_found_in_each_endpoints_body(body: Any, answer: Any) -> None:
    line = {"custom_id": "a", "response": {"status_code": 200, "body": body}}
    found = joined({}, msgspec.convert(line, Result))
    assert (found["answer"], found["error"]) == (answer, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"response": {"status_code": 502, "body": "gone"}}, "HTTP status 502"),
        ({"response": None}, "There is neither an answer nor an error."),
        ({"response": {"status_code": 200, "body": "text"}}, "HTTP status 200"),
    ],
)
def test_odd_results_are_errors(line: dict[str, Any], message: str) -> None:
    found = joined({}, msgspec.convert({"custom_id": "a"} | line, Result))
    assert (found["answer"], found["error"]["message"]) == (None, message)


def test_an_input_that_has_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    kind, options = settled(path, Options(model="m"))
    source = Source(path, kind, options)
    with opened_partial(tmp_path / "partial") as partial:
        partial.append(msgspec.json.encode(chat("row-1", "A")) + b"\n")
        plan = make_plan(source, LIMITS)
        path.write_text("one\n")
        with pytest.raises(CannotGoOn, match="has changed"):
            write_results(tmp_path / "out.jsonl", source, plan, partial)
    assert not (tmp_path / "out.jsonl").exists()


class Ended:
    def __init__(self, status: str) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("statuses", "tally", "code"),
    [
        (["completed", "completed"], Tally(succeeded=2), 0),
        (["completed"], Tally(succeeded=1, failed=1), 3),
        (["expired", "completed"], Tally(failed=1, unfinished=1), 4),
        (["cancelled"], Tally(succeeded=1), 0),
        (["failed", "cancelled"], Tally(unfinished=2), 2),
    ],
)
def test_the_exit_code_says_how_it_ended(statuses: list[str], tally: Tally, code: int) -> None:
    assert exit_code([Ended(status) for status in statuses], tally) == code  # type: ignore[misc]


class Error(msgspec.Struct):
    line: int | None
    message: str
    code: str = "c"


def test_what_the_server_refuses_is_told_by_the_lines_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\na\n\n"b\nb"\nc\n')
    kind, options = settled(path, Options(model="m"))
    errors = [(0, [Error(2, "Bad b")]), (2, [Error(1, "Bad c"), Error(None, "Bad all")])]
    told = refusal(Source(path, kind, options), errors)
    assert isinstance(told, BadInput)
    assert str(told).splitlines()[1:] == [
        "  line 4: Bad b (c)",
        "  line 6: Bad c (c)",
        "  Bad all (c)",
    ]


def test_a_refusal_without_reason_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n")
    kind, options = settled(path, Options(model="m"))
    assert "does not say why" in str(refusal(Source(path, kind, options), [(0, [])]))
