"""The lines of a batch: found valid all together, or refused each with its number."""

from dataclasses import dataclass
from typing import Any

import msgspec

from tests.double.answers import NEEDED, prompt_tokens
from tests.double.settings import Settings

Json = dict[str, Any]
FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    custom_id: str
    body: Json
    raw: bytes
    """As it was uploaded."""


class Validation:
    """What stands in an input file: lines, or errors, each as in a batch's ``errors.data``."""

    def __init__(self, endpoint: str, content: bytes, settings: Settings) -> None:
        self.lines: list[Line] = []
        self.errors: list[Json] = []
        self.model: str | None = None
        self.tokens = 0
        """Of the prompts, which count as enqueued while the batch is in progress."""
        self._endpoint = endpoint
        self._known = settings.models
        self._custom_ids: set[str] = set()
        raw = content.split(b"\n")
        numbered = [(number, text) for number, text in enumerate(raw, 1) if text.strip()]
        most = settings.batch_file_lines
        if len(numbered) > most:
            text = f"The batch has too many requests. Max is {most}."
            self.errors.append(problem("too_many_tasks", text))
            return
        for number, text_bytes in numbered:
            self._read(number, text_bytes)

    def _read(self, number: int, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            text = "This line is not parseable as valid JSON."
            self.errors.append(problem("invalid_json_line", text, number))
            return
        found = self._problem(line, number)
        if found is not None:
            self.errors.append(found)
            return
        body = line["body"]
        self._custom_ids.add(line["custom_id"])
        self.model = self.model or body["model"]
        self.tokens += prompt_tokens(body)
        self.lines.append(Line(custom_id=line["custom_id"], body=body, raw=raw))

    def _problem(self, line: Json, number: int) -> Json | None:
        for field in FIELDS:
            if not line.get(field):
                text = f"Missing required parameter: '{field}'."
                return problem("missing_required_parameter", text, number, field)
        name, body = line["custom_id"], line["body"]
        if not isinstance(name, str) or not isinstance(body, dict):
            text = "Invalid type: 'custom_id' is a string, 'body' an object."
            return problem(
                "invalid_type", text, number, "body" if isinstance(name, str) else "custom_id"
            )
        if line["url"] != self._endpoint:
            text = "The URL provided for this request does not match the batch endpoint."
            return problem("invalid_url", text, number, "url")
        if name in self._custom_ids:
            text = (
                f"The custom_id '{name}' for this request is a duplicate of another request. The "
                "custom_id parameter must be unique for each request in a batch."
            )
            return problem("duplicate_custom_id", text, number, "custom_id")
        return self._body_problem(body, number)

    def _body_problem(self, body: Json, number: int) -> Json | None:
        for field in ("model", NEEDED[self._endpoint]):
            if not body.get(field):
                text = f"{field.capitalize()} parameter is required."
                return problem("invalid_request", text, number, f"body.{field}")
        model = body["model"]
        if self._known is not None and model not in self._known:
            text = f"The provided model '{model}' is not supported by the Batch API."
            return problem("model_not_found", text, number, "body.model")
        if body.get("stream"):
            text = "Chat Completions: Streaming is not supported in the Batch API."
            return problem("streaming_unsupported", text, number, "body.stream")
        if self.model not in (None, model):
            text = (
                f"The model '{model}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            return problem("mismatched_model", text, number, "body.model")
        return None


def problem(code: str, message: str, line: int | None = None, param: str | None = None) -> Json:
    """One of a batch's ``errors.data``."""
    return {"code": code, "line": line, "message": message, "param": param}
