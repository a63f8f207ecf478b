"""The rows of an input file, read as a stream."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from carpool.lines import BOM
from cli.bulk.faults import BadInput, Faults

MAX_LINE_BYTES = 200_000_000
"""A longer line is refused, before it fills the memory."""
TEXT_FIELD = "text"
"""Of a row that is text alone."""


class Kind(StrEnum):
    """What a file holds, by its name; of JSONL by its first line."""

    REQUESTS = "requests"
    """OpenAI's batch format."""
    JSONL = "jsonl"
    """An object or a text on each line."""
    CSV = "csv"
    TEXT = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row that is not blank."""

    number: int
    """1-based, among the rows."""
    line: int
    """1-based, in the file; where it begins."""
    fields: dict[str, Any]
    """By name; values are JSON's. Empty in OpenAI's batch format."""
    text: bytes
    """The line as it stands, without newline and surrounding blanks; empty for CSV."""


def kind_of(path: Path) -> Kind:
    """Raises BadInput for a name that does not tell."""
    match path.suffix.lower():
        case ".csv":
            return Kind.CSV
        case ".txt":
            return Kind.TEXT
        case ".jsonl" | ".ndjson":
            return Kind.REQUESTS if _begins_with_request(path) else Kind.JSONL
        case _:
            raise BadInput(f"{path.name}: its name must end in .jsonl, .ndjson, .csv or .txt")


def read_rows(path: Path, kind: Kind, faults: Faults) -> Iterator[Row]:
    """All rows without fault."""
    with path.open("rb") as file:
        lines = _lines(file, faults)
        if kind is Kind.CSV:
            yield from _csv_rows(lines, faults)
            return
        number = 0
        for line, text in lines:
            stripped = text.rstrip(b"\r\n") if kind is Kind.TEXT else text.strip()
            if not stripped.strip():
                continue
            number += 1
            fields = _fields(kind, line, stripped, faults)
            if fields is not None:
                yield Row(number=number, line=line, fields=fields, text=stripped)


def _begins_with_request(path: Path) -> bool:
    with path.open("rb") as file:
        for _, text in _lines(file, Faults(path)):
            if text.strip():
                first = _json(text.strip())
                return (
                    isinstance(first, dict)
                    and "custom_id" in first
                    and isinstance(first.get("body"), dict)
                )
    return False


def _lines(file: BinaryIO, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Numbered, each with its newline, without a BOM."""
    number = 0
    while text := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(text) == MAX_LINE_BYTES and not text.endswith(b"\n"):
            faults.add(number, f"is longer than {MAX_LINE_BYTES:,} bytes")
            faults.check()
        yield number, text.removeprefix(BOM) if number == 1 else text


def _fields(kind: Kind, line: int, text: bytes, faults: Faults) -> dict[str, Any] | None:
    """None where the line has a fault."""
    decoded = _decoded(line, text, faults)
    if decoded is None or kind is Kind.REQUESTS:
        return None if decoded is None else {}
    if kind is Kind.TEXT:
        return {TEXT_FIELD: decoded}
    match _json(text):
        case dict() as found:
            return found
        case str() as found:
            return {TEXT_FIELD: found}
        case Broken():
            faults.add(line, "is not JSON")
        case _:
            faults.add(line, "is neither a JSON object nor a JSON string")
    return None


class Broken:
    """In the place of JSON that is none."""


def _json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Broken()


def _decoded(line: int, text: bytes, faults: Faults) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        faults.add(line, f"is not UTF-8 (0x{text[error.start]:02x} in the middle of it)")
        return None


def _csv_rows(lines: Iterator[tuple[int, bytes]], faults: Faults) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)
    read = _Counted(lines, faults)
    reader = csv.reader(read, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        begin = read.line + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            faults.add(begin, f"is not CSV: {error}")
            faults.check()
            return
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(begin, cells, faults)
            continue
        number += 1
        if len(cells) != len(header):
            faults.add(begin, f"has {len(cells)} cells where the header has {len(header)}")
            continue
        fields = dict(zip(header, cells, strict=True))
        yield Row(number=number, line=begin, fields=fields, text=b"")


def _header(line: int, cells: list[str], faults: Faults) -> list[str]:
    for name in {name for name in cells if cells.count(name) > 1}:
        faults.add(line, f"the header names '{name}' more than once")
    faults.check()
    return cells


class _Counted(Iterator[str]):
    """Lines as text; ``line`` is the number of the last one taken."""

    def __init__(self, lines: Iterator[tuple[int, bytes]], faults: Faults) -> None:
        self.line = 0
        self._lines = lines
        self._faults = faults

    def __next__(self) -> str:
        self.line, text = next(self._lines)
        decoded = _decoded(self.line, text, self._faults)
        return text.decode(errors="replace") if decoded is None else decoded
