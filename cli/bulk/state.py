"""OUT.state.json: how far a submission has come, so that another process can go on.

It is written before the server hears of a part, and after each thing that the server has done.
What happens between a thing and its note is found again by the submission's id, which is part of
each file's name and of each batch's metadata.
"""

import hashlib
from pathlib import Path

import msgspec

from carpool.ids import new_id
from cli.bulk.faults import BadInput
from cli.bulk.options import Options
from cli.bulk.plan import Limits, Part, Plan
from cli.bulk.replacement import replacing

VERSION = 1


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Of the input file."""

    sha256: str
    bytes: int


class PartState(msgspec.Struct, kw_only=True):
    """A part, and how far it has come."""

    number: int
    requests: int
    bytes: int
    sha256: str
    file_id: str | None = None
    batch_id: str | None = None
    cursor: str | None = None
    """Where the next results are to be asked for; None at the beginning."""
    lines: int = 0
    """How many results have come."""
    whole: bool = False
    """Whether all that there will be have come."""

    @property
    def part(self) -> Part:
        """As it was planned."""
        return Part(
            number=self.number, requests=self.requests, bytes=self.bytes, sha256=self.sha256
        )


class State(msgspec.Struct, kw_only=True):
    """The file's content."""

    version: int = VERSION
    submission: str
    base_url: str
    input: Fingerprint
    options: Options
    limits: Limits
    parts: list[PartState]
    partial_bytes: int = 0
    """How much of OUT.partial the cursors stand for; what lies beyond is asked for again."""
    exit_code: int | None = None
    """None while it is not finished."""

    def forget_results(self) -> None:
        """OUT.partial is gone, or has lost its end: all lines are asked for again."""
        self.partial_bytes = 0
        for part in self.parts:
            part.cursor, part.lines, part.whole = None, 0, False

    def file_name(self, part: PartState) -> str:
        """Of a part on the server."""
        return f"carpool-{self.submission}-part-{part.number}.jsonl"

    def save(self, path: Path) -> None:
        """Replace the file; it is on the disk when this returns."""
        with replacing(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def begun(
    fingerprint: Fingerprint, options: Options, limits: Limits, base_url: str, plan: Plan
) -> State:
    """Of a new submission."""
    return State(
        submission=new_id().hex,
        base_url=base_url,
        input=fingerprint,
        options=options,
        limits=limits,
        parts=[
            PartState(
                number=part.number, requests=part.requests, bytes=part.bytes, sha256=part.sha256
            )
            for part in plan.parts
        ],
    )


def load_state(path: Path) -> State | None:
    """None where there is none; raises BadInput for a file that is none."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not the state of a submission: {error}") from error
    if state.version != VERSION:
        raise BadInput(f"{path} was written by another version of carpool")
    return state


def fingerprint(path: Path) -> Fingerprint:
    """Of a file as it is now; raises BadInput where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Fingerprint(sha256=digest, bytes=file.tell())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
