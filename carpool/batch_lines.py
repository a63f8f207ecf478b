"""The lines of batch files: what may stand in an input file, and how results are written.

Format and codes are those of COMPAT section 2.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from carpool.errors import ErrorEnvelope
from carpool.lines import Line
from carpool.states import Endpoint, Outcome
from carpool.wire import holds_nul

BYTES_PER_TOKEN = 4
"""For estimates: about what English text has in common tokenizers."""
PROMPT_FIELDS: Final = {
    Endpoint.CHAT: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.EMBEDDINGS: "input",
}
_encode = msgspec.json.Encoder().encode


class BatchLine(msgspec.Struct):
    """A line of an input file."""

    custom_id: str
    method: str
    url: str
    body: Raw


class _Body(msgspec.Struct):
    """Of a line's body, what must be known before it runs; the rest is the engine's to judge."""

    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    messages: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET
    input: Raw | UnsetType = UNSET
    max_tokens: Any = None
    max_completion_tokens: Any = None


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a failed batch's ``errors.data``."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


decode_line = msgspec.json.Decoder(BatchLine).decode
_decode_error = msgspec.json.Decoder(ErrorEnvelope).decode
_decode_body = msgspec.json.Decoder(_Body).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an input file may hold."""

    requests: int
    embedding_inputs: int
    line_bytes: int
    errors: int
    """How many errors are reported at most."""


class Inspection:
    """Looks through an input file, line by line, and gathers what is wrong with it.

    Of the custom_ids only 64-bit hashes are kept: a million take about 70 MB, and are wrongly found
    equal once in forty million files.
    """

    def __init__(self, endpoint: Endpoint, models: Collection[str], limits: Limits) -> None:
        """``models`` are those that a route leads to."""
        self.total = 0
        self.model: str | None = None
        self.tokens = 0
        """Of the prompts, estimated."""
        self.max_output_tokens: int | None = 0
        """None where a line sets no limit."""
        self.errors: list[BatchError] = []
        self._endpoint = endpoint
        self._prompt = PROMPT_FIELDS[endpoint]
        self._models = models
        self._limits = limits
        self._seen: set[int] = set()
        self._inputs = 0

    @property
    def full(self) -> bool:
        """Whether no further error would be reported."""
        return len(self.errors) >= self._limits.errors

    def finish(self) -> None:
        """Judge the file as a whole."""
        if not self.total and not self.errors:
            self._refuse("empty_batch", "The input file contains no requests.")

    def inspect(self, line: Line) -> Raw | None:
        """Take a line; its body where it is valid."""
        self.total += 1
        if self.total == self._limits.requests + 1:
            most = self._limits.requests
            self._refuse("too_many_tasks", f"The batch has too many requests. Max is {most}.")
        if line.too_long:
            most = self._limits.line_bytes
            self._refuse("request_too_large", f"This line is larger than {most} bytes.", line)
            return None
        try:
            if not line.text.isascii():
                line.text.decode()
            read = decode_line(line.text)
        except msgspec.ValidationError as error:
            self._refuse_shape(error, line)
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = "This line is not parseable as valid JSON."
            self._refuse("invalid_json_line", message, line)
            return None
        before = len(self.errors)
        self._inspect(read, line)
        return read.body if len(self.errors) == before else None

    def _inspect(self, read: BatchLine, line: Line) -> None:
        if not read.custom_id:
            message = "Missing required parameter: 'custom_id'."
            self._refuse("missing_required_parameter", message, line, "custom_id")
            return
        key = hash(read.custom_id)
        if key in self._seen:
            message = (
                f"The custom_id '{read.custom_id[:100]}' for this request is a duplicate of "
                "another request. The custom_id parameter must be unique for each request in a "
                "batch."
            )
            self._refuse("duplicate_custom_id", message, line, "custom_id")
        self._seen.add(key)
        if read.method != "POST":
            self._refuse("invalid_request", "The method must be 'POST'.", line, "method")
        if read.url != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            self._refuse("invalid_url", message, line, "url")
            return
        self._inspect_body(read.body, line)

    def _inspect_body(self, raw: Raw, line: Line) -> None:
        try:
            body = _decode_body(raw)
        except msgspec.ValidationError as error:
            self._refuse("invalid_request", f"The body is invalid: {error}.", line, "body")
            return
        if holds_nul(bytes(raw)):
            message = "The body is invalid: a text holds the character NUL (\\u0000)."
            self._refuse("invalid_request", message, line, "body")
            return
        if not body.model:
            self._refuse("invalid_request", "Model parameter is required.", line, "body.model")
        elif body.model not in self._models:
            message = f"The provided model '{body.model[:100]}' is not supported by the Batch API."
            self._refuse("model_not_found", message, line, "body.model")
        elif self.model is None:
            self.model = body.model
        elif body.model != self.model:
            message = (
                f"The model '{body.model[:100]}' for this request does not match the rest of the "
                "batch. Each batch must contain requests for a single model."
            )
            self._refuse("mismatched_model", message, line, "body.model")
        prompt = getattr(body, self._prompt)
        if prompt is UNSET:
            message = f"{self._prompt.capitalize()} parameter is required."
            self._refuse("invalid_request", message, line, f"body.{self._prompt}")
            return
        if body.stream:
            message = "Chat Completions: Streaming is not supported in the Batch API."
            self._refuse("streaming_unsupported", message, line, "body.stream")
        self._count(body, prompt)

    def _count(self, body: _Body, prompt: Raw) -> None:
        self.tokens += -(-len(bytes(prompt)) // BYTES_PER_TOKEN)
        if self._endpoint is Endpoint.EMBEDDINGS:
            given = msgspec.json.decode(prompt)
            several = isinstance(given, list) and given and not isinstance(given[0], int)
            before, self._inputs = self._inputs, self._inputs + (len(given) if several else 1)
            most = self._limits.embedding_inputs
            if before <= most < self._inputs:
                self._refuse("too_many_inputs", f"The batch has too many inputs. Max is {most}.")
            return
        most = body.max_completion_tokens or body.max_tokens
        if not isinstance(most, int):
            self.max_output_tokens = None
        elif self.max_output_tokens is not None:
            self.max_output_tokens += most

    def _refuse_shape(self, error: msgspec.ValidationError, line: Line) -> None:
        what = str(error)
        for field in BatchLine.__struct_fields__:
            if f"missing required field `{field}`" in what:
                message = f"Missing required parameter: '{field}'."
                self._refuse("missing_required_parameter", message, line, field)
                return
            if what.endswith(f"`$.{field}`"):
                self._refuse("invalid_request", f"Invalid '{field}': {what}.", line, field)
                return
        self._refuse("invalid_request", f"This line is no request: {what}.", line)

    def _refuse(
        self, code: str, message: str, line: Line | None = None, param: str | None = None
    ) -> None:
        if not self.full:
            number = None if line is None else line.number
            self.errors.append(BatchError(code=code, message=message, line=number, param=param))


def stored_custom_id(custom_id: str) -> str:
    """A custom_id as it is stored: a JSON string, for a text of Postgres takes no NUL."""
    return _encode(custom_id).decode()


def ended_line(
    identifier: UUID, custom_id: str, outcome: int, status_code: int, body: bytes
) -> bytes:
    """The line of a request that has ended, in the output file or the error file."""
    if outcome in (Outcome.COMPLETED, Outcome.FAILED):
        return answered_line(identifier, custom_id, status_code, body)
    error = _decode_error(body).error
    return unanswered_line(identifier, custom_id, error.code or "", error.message)


def answered_line(identifier: UUID, custom_id: str, status_code: int, body: bytes) -> bytes:
    """The line of a request that was answered, well or with an HTTP error; newline included."""
    if b"\n" in body:
        body = msgspec.json.format(body, indent=-1)
    name = identifier.hex.encode()
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":'
        b'{"status_code":%d,"request_id":"req_%b","body":%b},"error":null}\n'
        % (name, custom_id.encode(), status_code, name, body)
    )


def unanswered_line(identifier: UUID, custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that was never answered; newline included."""
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":{"code":%b,"message":%b}}\n'
        % (identifier.hex.encode(), custom_id.encode(), _encode(code), _encode(message))
    )
