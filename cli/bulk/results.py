"""The final file: each row in the order of the input, with its answer."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from cli.bulk.faults import CannotGoOn
from cli.bulk.partial import NOWHERE, Partial
from cli.bulk.plan import Plan
from cli.bulk.replacement import replacing
from cli.bulk.rows import Kind
from cli.bulk.source import Request, Source

OWN_COLUMNS = ("custom_id", "answer", "error", "usage")
KEPT_PREFIX = "input_"
"""Before the name of an input field that is named like one of ours."""
UNFINISHED_CODES = frozenset({"batch_expired", "batch_cancelled"})
NO_RESULT_CODE = "no_result"
CHANGED = "the input file has changed while its results were written"

_encode = msgspec.json.Encoder().encode


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: Any


class Result(msgspec.Struct):
    """A line of an output or error file."""

    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(Result).decode


@dataclass(kw_only=True, slots=True)
class Tally:
    """What became of the requests."""

    succeeded: int = 0
    failed: int = 0
    unfinished: int = 0
    """Cancelled, expired, or of a batch that was refused."""

    def count(self, result: Result) -> None:
        """Take one more."""
        if result.error is not None and result.error.code in UNFINISHED_CODES | {NO_RESULT_CODE}:
            self.unfinished += 1
        elif succeeded(result):
            self.succeeded += 1
        else:
            self.failed += 1


def write_results(path: Path, source: Source, plan: Plan, partial: Partial) -> Tally:
    """Write the file as a whole; memory stays flat but for 8 bytes for each request."""
    places = partial.places(plan)
    tally = Tally()
    with replacing(path) as file:
        writer = _writer(path, source, plan, file)
        place = 0
        for place, request in enumerate(islice(source.requests(), plan.requests), 1):
            offset = places[place - 1]
            line = _no_result(request) if offset == NOWHERE else partial.line_at(offset)
            result = _decode(line)
            if result.custom_id != request.custom_id:
                raise CannotGoOn(CHANGED)
            tally.count(result)
            writer.write(request, line, result)
        if place != plan.requests:
            raise CannotGoOn(CHANGED)
    return tally


def succeeded(result: Result) -> bool:
    """Whether a request was answered well."""
    response = result.response
    return result.error is None and response is not None and response.status_code < 300


def joined(fields: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """An input row with what became of it."""
    kept = {kept_name(name): value for name, value in fields.items()}
    body = _answered(result)
    return kept | {
        "custom_id": result.custom_id,
        "answer": None if body is None else _answer(body),
        "error": _error(result) if body is None else None,
        "usage": None if body is None else body.get("usage"),
    }


def kept_name(name: str) -> str:
    """Of an input field in the final file."""
    return KEPT_PREFIX + name if name in OWN_COLUMNS else name


class _Writer(Protocol):
    def write(self, request: Request, line: bytes, result: Result) -> None: ...


def _writer(path: Path, source: Source, plan: Plan, file: BinaryIO) -> _Writer:
    if path.suffix.lower() == ".csv":
        return _CSV(file, plan.columns)
    return _Lines(file) if source.kind is Kind.REQUESTS else _Objects(file)


class _Lines:
    """OpenAI's lines as they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, request: Request, line: bytes, result: Result) -> None:
        self._file.write(line)


class _Objects:
    """An object for each row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, request: Request, line: bytes, result: Result) -> None:
        self._file.write(_encode(joined(request.row.fields, result)) + b"\n")


class _CSV:
    """A CSV row for each row."""

    def __init__(self, file: BinaryIO, columns: tuple[str, ...]) -> None:
        self._names = [*(kept_name(name) for name in columns), *OWN_COLUMNS]
        self._file = file
        self._row(self._names)

    def write(self, request: Request, line: bytes, result: Result) -> None:
        found = joined(request.row.fields, result)
        if found["error"] is not None:
            found["error"] = found["error"]["message"]
        self._row([_cell(found.get(name)) for name in self._names])

    def _row(self, cells: list[str]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        self._file.write(text.getvalue().encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value).decode()


def _answered(result: Result) -> dict[str, Any] | None:
    """The body of a good answer."""
    if result.response is None or not succeeded(result):
        return None
    return result.response.body if isinstance(result.response.body, dict) else None


def _answer(body: Mapping[str, Any]) -> Any:
    """The text of the first choice, or the embedding."""
    match body:
        case {"choices": [{"message": {"content": content}}, *_]}:
            return content
        case {"choices": [{"text": text}, *_]}:
            return text
        case {"data": [{"embedding": embedding}, *_]}:
            return embedding
        case _:
            return None


def _error(result: Result) -> dict[str, Any]:
    if result.error is not None:
        return {"code": result.error.code, "message": result.error.message}
    if result.response is None:
        return {"code": None, "message": "There is neither an answer nor an error."}
    status = result.response.status_code
    match result.response.body:
        case {"error": {"message": message, **more}}:
            return {"code": more.get("code"), "message": message, "status_code": status}
        case _:
            return {"code": None, "message": f"HTTP status {status}", "status_code": status}


def _no_result(request: Request) -> bytes:
    error = {"code": NO_RESULT_CODE, "message": "The batch has ended without a result for this."}
    line = {"id": None, "custom_id": request.custom_id, "response": None, "error": error}
    return _encode(line) + b"\n"
