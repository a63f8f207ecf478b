"""One batch and its states, moved on by the clock alone."""

import math
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from tests.double.answers import Json, malformed
from tests.double.faults import BatchFault, LineFault
from tests.double.lines import Line, Validation, problem
from tests.double.outcomes import CANCELLED, EXPIRED, Outcomes, unknown_line
from tests.double.refusals import error_of, invalid

if TYPE_CHECKING:
    from tests.double.world import World

ENQUEUED = ("in_progress", "finalizing")
TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
NEVER = math.inf
_ROUNDING = 1e-6
"""Of a line, so that `seconds * rate` counts the line that it means."""


@dataclass(kw_only=True, eq=False)
class Batch:
    """validating → failed | in_progress → finalizing → completed; expired and cancelled beside.

    ``step`` does what falls due at ``due``; ``progress`` computes the lines that are due by then.
    """

    world: "World"
    endpoint: str
    window: str
    window_seconds: int
    input_file_id: str
    metadata: dict[str, str] | None
    fault: BatchFault
    created_at: float
    output_kept_seconds: int | None
    id: str = field(default_factory=lambda: f"batch_{uuid.uuid4().hex}")
    status: str = "validating"
    times: dict[str, float] = field(default_factory=dict)
    model: str | None = None
    tokens: int = 0
    lines: list[Line] = field(default_factory=list)
    done: int = 0
    """How many of the lines, from the first on."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    errors: list[Json] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def expires_at(self) -> float:
        return self.created_at + self.window_seconds

    def due(self) -> float:
        """When `step` is next to be called."""
        settings = self.world.settings
        match self.status:
            case "validating":
                return self.created_at + settings.validating_seconds
            case "in_progress":
                return min(self._finish_at(), self.expires_at)
            case "finalizing":
                return min(
                    self.times["finalizing_at"] + settings.finalizing_seconds, self.expires_at
                )
            case "cancelling":
                return self.times["cancelling_at"] + settings.cancelling_seconds
            case _:
                return NEVER

    def step(self, at: float) -> None:
        """Leave the state for the next one."""
        match self.status:
            case "validating":
                self._validate(at)
            case "in_progress" if self._finish_at() <= min(at, self.expires_at):
                self.progress(at)
                self._enter("finalizing", at)
            case "finalizing" if at < self.expires_at:
                self._end("completed", at)
            case "in_progress" | "finalizing":
                self.progress(at)
                self._end("expired", at)
            case "cancelling":
                self._end("cancelled", at)

    def progress(self, at: float) -> None:
        """Compute the lines that the rate has reached by now."""
        if self.status != "in_progress":
            return
        for line in self.lines[self.done : self._reach(at)]:
            self._compute(line, int(at))
            self.done += 1

    def cancel(self, at: float) -> None:
        """What is done by now stays; the rest is not computed."""
        self.progress(at)
        self._enter("cancelling", at)

    def as_json(self) -> Json:
        paid = self.outcomes.tokens.total() > 0
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            **{name: int(self.times[name]) if name in self.times else None for name in TIMES},
            "request_counts": {
                "total": len(self.lines),
                "completed": self.outcomes.completed,
                "failed": self.outcomes.failed,
            },
            "metadata": self.metadata,
            "usage": self.outcomes.usage() if paid else None,
        }

    def _enter(self, status: str, at: float) -> None:
        self.status = status
        self.times[f"{status}_at"] = at

    def _validate(self, at: float) -> None:
        file = self.world.files.find(self.input_file_id)
        if file is None or file.purpose != "batch":
            text = f"Cannot find file {self.input_file_id}, or organization does not own this file."
            self._fail([problem("invalid_request", text, None, "file_id")], at)
            return
        found = Validation(self.endpoint, file.content, self.world.settings)
        self.model, self.tokens = found.model, found.tokens
        if self.fault.code is not None:
            found.errors.append(problem(self.fault.code, self.fault.message))
        elif not found.errors:
            found.errors += self.world.batches.too_many_tokens(self)
        if found.errors:
            self._fail(found.errors, at)
            return
        self.lines = found.lines
        self._enter("in_progress", at)

    def _fail(self, errors: list[Json], at: float) -> None:
        self.errors = errors
        self._enter("failed", at)

    def _most(self) -> int:
        """How many lines will ever be computed."""
        stall = self.fault.stall_after
        return len(self.lines) if stall is None else min(stall, len(self.lines))

    def _computed_at(self) -> float:
        """When all of these are."""
        settings, since = self.world.settings, self.times["in_progress_at"]
        if settings.lines_per_second is None:
            return since + settings.running_seconds
        return since + self._most() / settings.lines_per_second

    def _finish_at(self) -> float:
        return NEVER if self._most() < len(self.lines) else self._computed_at()

    def _reach(self, at: float) -> int:
        rate = self.world.settings.lines_per_second
        if at >= self._computed_at():
            return self._most()
        if rate is None:
            return 0
        reached = (at - self.times["in_progress_at"]) * rate + _ROUNDING
        return min(self._most(), int(reached))

    def _compute(self, line: Line, at: int) -> None:
        world, outcomes = self.world, self.outcomes
        fault = world.faults.of_line(line.raw) or LineFault(holding="")
        if fault.status is not None:
            outcomes.fail(line, fault.status, _body(fault))
        elif fault.code is not None:
            outcomes.leave(line, (fault.code, "This request could not be executed."))
        elif wrong := malformed(self.endpoint, line.body):
            outcomes.fail(line, 400, {"error": invalid(wrong).error})
        else:
            outcomes.compute(world.name, self.endpoint, line, world.prefixes, at)
            outcomes.spoil(fault)
            world.record.lines[line.custom_id] += 1

    def _end(self, status: str, at: float) -> None:
        for line in self.lines[self.done :]:
            self.outcomes.leave(line, EXPIRED if status == "expired" else CANCELLED)
        # The order is free: here the last line comes first, so that nobody relies on another.
        output = [unknown_line(n) for n in range(self.fault.unknown_lines)]
        output += reversed(self.outcomes.output)
        self.output_file_id = self._file("output", output)
        self.error_file_id = self._file("error", self.outcomes.errors)
        self._enter(status, at)

    def _file(self, what: str, entries: list[bytes]) -> str | None:
        if not entries:
            return None
        content = b"".join(entry + b"\n" for entry in entries)
        name = f"{self.id}_{what}.jsonl"
        return self.world.files.add(name, "batch_output", content, self.output_kept_seconds)


def _body(fault: LineFault) -> object:
    """A body that is no JSON, as of a gateway, stands in the file as a string."""
    if fault.body is None:
        return error_of(fault.status or 0)
    try:
        return msgspec.json.decode(fault.body)
    except msgspec.DecodeError:
        return fault.body
