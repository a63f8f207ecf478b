"""What becomes of a line: its entry in the output or error file, and its tokens."""

import uuid
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from tests.double.answers import Answering, Json
from tests.double.faults import LineFault
from tests.double.lines import Line
from tests.double.prefixes import Prefixes

EXPIRED = (
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)
CANCELLED = ("batch_cancelled", "This request was not executed, because its batch was cancelled.")


@dataclass(kw_only=True, slots=True)
class Outcomes:
    """Of the lines of one batch that are done so far, in the order of the input."""

    output: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    tokens: Counter[str] = field(default_factory=Counter)

    def compute(self, name: str, endpoint: str, line: Line, prefixes: Prefixes, at: int) -> None:
        """Answer it: it is paid from now on."""
        made = Answering(name, endpoint, line.body, prefixes, at)
        self._count(made.usage)
        self.completed += 1
        self.output.append(_answered(line.custom_id, 200, made.whole()))

    def spoil(self, fault: LineFault) -> None:
        """Make of the line computed last what the fault says."""
        entry = self.output.pop()
        if fault.text is not None:
            entry = fault.text.encode()
        self.output += [] if fault.missing else [entry] * (2 if fault.doubled else 1)

    def fail(self, line: Line, status: int, body: object) -> None:
        """Put it into the error file, with the HTTP status that it was answered with."""
        self.failed += 1
        self.errors.append(_answered(line.custom_id, status, body))

    def leave(self, line: Line, reason: tuple[str, str]) -> None:
        """Put it into the error file without a response."""
        code, message = reason
        self.failed += 1
        error = {"code": code, "message": message}
        self.errors.append(_entry(line.custom_id, response=None, error=error))

    def usage(self) -> Json:
        """As a batch object shows it."""
        tokens = self.tokens
        return {
            "input_tokens": tokens["prompt"],
            "input_tokens_details": {"cached_tokens": tokens["cached"]},
            "output_tokens": tokens["completion"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens["prompt"] + tokens["completion"],
        }

    def _count(self, usage: Json) -> None:
        self.tokens["prompt"] += usage["prompt_tokens"]
        self.tokens["cached"] += usage["prompt_tokens_details"]["cached_tokens"]
        self.tokens["completion"] += usage["completion_tokens"]


def unknown_line(number: int) -> bytes:
    """An answer to what nobody asked."""
    return _answered(f"unknown-{number}", 200, {"object": "chat.completion", "choices": []})


def _answered(custom_id: str, status: int, body: object) -> bytes:
    response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
    return _entry(custom_id, response=response, error=None)


def _entry(custom_id: str, *, response: Json | None, error: Json | None) -> bytes:
    return msgspec.json.encode(
        {
            "id": f"batch_req_{uuid.uuid4().hex[:24]}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
    )
