"""Every fault of an input file is found, with its line; every result is written as OpenAI does."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.batch_lines import (
    BatchError,
    Inspection,
    Limits,
    answered_line,
    ended_line,
    stored_custom_id,
    unanswered_line,
)
from carpool.errors import error_body
from carpool.lines import Lines
from carpool.states import Endpoint, Outcome
from tests.batches import Json, jsonl, line

LIMITS = Limits(requests=5, embedding_inputs=5, line_bytes=2000, errors=4)
ID = UUID(int=7)


def inspect(data: bytes, endpoint: Endpoint = Endpoint.CHAT, limits: Limits = LIMITS) -> Inspection:
    """What is found in a file."""
    inspection = Inspection(endpoint, {"simulated", "other"}, limits)
    lines = Lines(limit_bytes=limits.line_bytes)
    for found in (*lines.feed(data), *lines.finish()):
        inspection.inspect(found)
    inspection.finish()
    return inspection


def errors_of(data: bytes, **options: Any) -> list[tuple[str, int | None, str | None]]:
    return [(e.code, e.line, e.param) for e in inspect(data, **options).errors]


def without(field: str, item: Json) -> Json:
    return {name: value for name, value in item.items() if name != field}


def test_a_valid_file() -> None:
    found = inspect(jsonl([line("a"), line("b", body={"max_completion_tokens": 7})]))
    assert found.errors == []
    assert (found.total, found.model, found.max_output_tokens) == (2, "simulated", 9)
    assert found.tokens > 10


def test_the_most_output_is_unknown_where_a_line_does_not_limit_it() -> None:
    assert inspect(jsonl([line("a", body={"max_tokens": None})])).max_output_tokens is None


@pytest.mark.parametrize(
    ("second", "code", "param"),
    [
        (b"not json", "invalid_json_line", None),
        (b'{"custom_id": "x",', "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (
            json.dumps(line("caf\u00e9"), ensure_ascii=False).encode("latin-1"),
            "invalid_json_line",
            None,
        ),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b"[" * 5000, "request_too_large", None),
        (b"[" * 1900 + b"]" * 1900, "request_too_large", None),
        (b"[" * 900 + b"]" * 900, "invalid_request", None),
        (b"null", "invalid_request", None),
        (b"[]", "invalid_request", None),
        (without("custom_id", line("b")), "missing_required_parameter", "custom_id"),
        (line("b") | {"custom_id": ""}, "missing_required_parameter", "custom_id"),
        (without("method", line("b")), "missing_required_parameter", "method"),
        (without("url", line("b")), "missing_required_parameter", "url"),
        (without("body", line("b")), "missing_required_parameter", "body"),
        (line("b") | {"custom_id": 7}, "invalid_request", "custom_id"),
        (line("b") | {"body": "x"}, "invalid_request", "body"),
        (line("b", method="GET"), "invalid_request", "method"),
        (line("b", url="/v1/embeddings"), "invalid_url", "url"),
        (line("b", url="/v1/chat/completions/"), "invalid_url", "url"),
        (line("b", body={"model": None}), "invalid_request", "body.model"),
        (line("b", body={"model": ""}), "invalid_request", "body.model"),
        (line("b", body={"model": 7}), "invalid_request", "body"),
        (line("b", body={"model": "nowhere"}), "model_not_found", "body.model"),
        (line("b", body={"model": "other"}), "mismatched_model", "body.model"),
        (line("b") | {"body": {"model": "simulated"}}, "invalid_request", "body.messages"),
        (line("b", body={"stream": True}), "streaming_unsupported", "body.stream"),
        (line("a"), "duplicate_custom_id", "custom_id"),
    ],
    ids=range(28),
)
def test_what_is_wrong_is_told_with_its_line(
    second: bytes | Json, code: str, param: str | None
) -> None:
    text = second if isinstance(second, bytes) else json.dumps(second).encode()
    data = jsonl([line("a")]) + b"\n" + text + b"\n" + jsonl([line("c")])
    assert errors_of(data) == [(code, 3, param)]


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (Endpoint.COMPLETIONS, {"model": "simulated"}, "body.prompt"),
        (Endpoint.EMBEDDINGS, {"model": "simulated"}, "body.input"),
    ],
)
def test_the_prompt_of_the_other_endpoints(endpoint: Endpoint, body: Json, param: str) -> None:
    data = jsonl([line("a", url=endpoint) | {"body": body}])
    assert errors_of(data, endpoint=endpoint) == [("invalid_request", 1, param)]


@pytest.mark.parametrize(
    ("given", "fits"),
    [(["a"] * 5, True), (["a"] * 6, False), ("text", True), ([1] * 9, True), ([[1], [2]], True)],
)
def test_embeddings_are_counted_by_their_inputs(given: Any, fits: bool) -> None:
    item = line("a", url=Endpoint.EMBEDDINGS) | {"body": {"model": "simulated", "input": given}}
    expected = [] if fits else [("too_many_inputs", None, None)]
    assert errors_of(jsonl([item]), endpoint=Endpoint.EMBEDDINGS) == expected


def test_too_many_requests_are_told_once() -> None:
    assert errors_of(jsonl(line(str(n)) for n in range(9))) == [("too_many_tasks", None, None)]


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_request(data: bytes) -> None:
    assert errors_of(data) == [("empty_batch", None, None)]


def test_errors_are_reported_up_to_a_number() -> None:
    found = inspect(b"x\n" * 9)
    assert [error.line for error in found.errors] == [1, 2, 3, 4]
    assert found.full


def test_all_faults_of_one_line_are_told() -> None:
    data = jsonl([line("a"), line("a", body={"stream": True, "model": "nowhere"})])
    assert [code for code, _, _ in errors_of(data)] == [
        "duplicate_custom_id",
        "model_not_found",
        "streaming_unsupported",
    ]


def test_the_words_are_openais() -> None:
    [error] = inspect(jsonl([without("custom_id", line("a"))])).errors
    assert error == BatchError(
        code="missing_required_parameter",
        message="Missing required parameter: 'custom_id'.",
        line=1,
        param="custom_id",
    )


custom_ids = st.text(min_size=1) | st.just("a\nb\x00\u2028\"'\\") | st.just("x" * 10_000)


@given(custom_ids, st.integers(200, 599))
def test_a_custom_id_of_any_kind_comes_back_as_it_was(custom_id: str, status: int) -> None:
    stored = stored_custom_id(custom_id)
    assert "\0" not in stored
    body = b'{"pretty":\n  [1,\n 2]}'
    for text in (
        answered_line(ID, stored, status, body),
        unanswered_line(ID, stored, "batch_expired", "too late"),
    ):
        assert text.count(b"\n") == 1
        assert text.endswith(b"\n")
        assert json.loads(text)["custom_id"] == custom_id


def test_lines_are_shaped_as_openais() -> None:
    name = ID.hex
    assert json.loads(ended_line(ID, '"r"', Outcome.COMPLETED, 200, b'{"a":1}')) == {
        "id": f"batch_req_{name}",
        "custom_id": "r",
        "response": {"status_code": 200, "request_id": f"req_{name}", "body": {"a": 1}},
        "error": None,
    }
    refused = error_body("No.", "invalid_request_error", code="bad")
    failed = json.loads(ended_line(ID, '"r"', Outcome.FAILED, 400, refused))
    assert failed["response"]["body"]["error"]["code"] == "bad"
    assert failed["error"] is None
    cancelled = error_body("Stopped.", "invalid_request_error", code="batch_cancelled")
    assert json.loads(ended_line(ID, '"r"', Outcome.CANCELLED, 409, cancelled)) == {
        "id": f"batch_req_{name}",
        "custom_id": "r",
        "response": None,
        "error": {"code": "batch_cancelled", "message": "Stopped."},
    }
