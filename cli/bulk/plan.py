"""How an input file is split into batches, found by reading it once from end to end."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import BinaryIO

from cli.bulk.faults import BadInput, Faults
from cli.bulk.source import ID_PREFIX, Request, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of one part: what a batch may hold."""

    requests: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one batch holds: requests that follow each other in the file."""

    number: int
    """1-based."""
    requests: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The parts, and which request a custom_id means.

    Where the custom_ids are the file's own a million of them take about 100 MB: 64-bit hashes,
    wrongly found equal once in forty million files. Otherwise memory is flat.
    """

    parts: tuple[Part, ...]
    requests: int
    columns: tuple[str, ...]
    """Every field that a row has, in the order of first appearance."""
    _numbers: dict[int, int] | None
    """1-based, by the hash of the custom_id."""

    @property
    def before(self) -> list[int]:
        """By part, how many requests stand before its own."""
        return [0, *accumulate(part.requests for part in self.parts)][:-1]

    def place(self, custom_id: str) -> int | None:
        """Of a request, 0-based; None for a custom_id that is none of the file's."""
        if self._numbers is not None:
            found = self._numbers.get(hash(custom_id))
            return None if found is None else found - 1
        digits = custom_id.removeprefix(ID_PREFIX)
        if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(self.requests)):
            return None
        number = int(digits)
        made = 1 <= number <= self.requests and custom_id == f"{ID_PREFIX}{number}"
        return number - 1 if made else None


def make_plan(source: Source, limits: Limits) -> Plan:
    """Read all of the file; raises BadInput with all that is wrong with its lines."""
    faults = Faults(source.path)
    columns: dict[str, None] = {}
    numbers: dict[int, int] | None = {} if source.own_ids else None
    parts: list[Part] = []
    open_part = _OpenPart()
    total = 0
    for total, request in enumerate(source.requests(faults), 1):
        columns.update(dict.fromkeys(request.row.fields))
        if len(request.line) > limits.bytes:
            faults.add(request.row.line, f"becomes a request of more than {limits.bytes:,} bytes")
        if numbers is not None and numbers.setdefault(hash(request.custom_id), total) != total:
            faults.add(
                request.row.line,
                f"the custom_id '{request.custom_id[:100]}' stands in an earlier line as well",
            )
        if open_part.is_full(request.line, limits):
            parts.append(open_part.closed(len(parts) + 1))
            open_part = _OpenPart()
        open_part.take(request.line)
    faults.check()
    if not total:
        raise BadInput(f"{source.path.name} has no row")
    parts.append(open_part.closed(len(parts) + 1))
    return Plan(parts=tuple(parts), requests=total, columns=tuple(columns), _numbers=numbers)


class PartFiles:
    """The parts one after the other, each written to a file of its own, in one reading."""

    def __init__(self, source: Source, parts: tuple[Part, ...]) -> None:
        self._requests = source.requests()
        self._rest = list(parts)

    def write(self, part: Part, path: Path) -> None:
        """Write a part; those before it are passed over. Raises BadInput where it has changed."""
        while self._rest[0] != part:
            passed = self._rest.pop(0)
            for _ in islice(self._requests, passed.requests):
                pass
        self._rest.pop(0)
        with path.open("wb") as file:
            written = _write(islice(self._requests, part.requests), file)
        if written != part.sha256:
            raise BadInput("the input file has changed while it was read")


class _OpenPart:
    def __init__(self) -> None:
        self._requests = 0
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def is_full(self, line: bytes, limits: Limits) -> bool:
        """Whether the line must go to the next part."""
        if not self._requests:
            return False
        return self._requests >= limits.requests or self._bytes + len(line) > limits.bytes

    def take(self, line: bytes) -> None:
        self._requests += 1
        self._bytes += len(line)
        self._sha256.update(line)

    def closed(self, number: int) -> Part:
        digest = self._sha256.hexdigest()
        return Part(number=number, requests=self._requests, bytes=self._bytes, sha256=digest)


def _write(requests: Iterator[Request], file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    for request in requests:
        file.write(request.line)
        sha256.update(request.line)
    return sha256.hexdigest()
