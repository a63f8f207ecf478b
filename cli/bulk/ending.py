"""How a submission ends: which exit code, and which lines are to blame."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from openai.types import Batch

from cli.bulk.faults import BadInput, Faults
from cli.bulk.results import Tally
from cli.bulk.source import Source

SUCCEEDED = 0
BAD_INPUT = 2
SOME_FAILED = 3
UNFINISHED = 4
INTERRUPTED = 130


class LineError(Protocol):
    """An entry of a batch's ``errors.data``."""

    @property
    def line(self) -> int | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def code(self) -> str | None: ...


Refused = tuple[int, Iterable[LineError]]
"""How many rows stand before those of a batch, and what is wrong with its lines."""


def exit_code(batches: Sequence[Batch], tally: Tally) -> int:
    """Of a submission whose batches have all ended."""
    if any(batch.status == "failed" for batch in batches):
        return BAD_INPUT
    if tally.unfinished:
        return UNFINISHED
    return SOME_FAILED if tally.failed else SUCCEEDED


def refusal(source: Source, refused: Iterable[Refused]) -> BadInput:
    """What the server's validation has found, by the lines of the input file."""
    found = [(before, list(errors)) for before, errors in refused]
    rows = {before + e.line for before, errors in found for e in errors if e.line is not None}
    lines = _lines(source, rows)
    faults = Faults(source.path)
    try:
        for before, errors in found:
            for error in errors:
                where = None if error.line is None else lines[before + error.line]
                faults.add(where, f"{error.message} ({error.code})")
        faults.check()
    except BadInput as bad:
        return bad
    return BadInput(f"{source.path}: the server refuses it, and does not say why")


def _lines(source: Source, numbers: set[int]) -> dict[int, int | None]:
    """Of rows, 1-based, the lines on which they begin."""
    found: dict[int, int | None] = dict.fromkeys(numbers)
    if numbers:
        last = max(numbers)
        for row in source.rows():
            if row.number in numbers:
                found[row.number] = row.line
            if row.number >= last:
                break
    return found
