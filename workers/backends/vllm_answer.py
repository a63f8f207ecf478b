"""What goes into vLLM's serving classes and comes out, in OpenAI's exact shape. Without vLLM."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from carpool.errors import PassingError, error_body
from carpool.states import Endpoint
from workers.backends.protocol import Answer, Call, Usage
from workers.backends.refusal import RefusedError
from workers.backends.sse import DONE

Json = dict[str, Any]

PROMPTS = {
    Endpoint.CHAT: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.EMBEDDINGS: "input",
}
PASSING_STATUSES = frozenset({408, 409, 429})
NOT_IMPLEMENTED = 501

_TOO_LONG = re.compile(r"maximum context length|maximum model length")
_REPR = re.compile(r" \((?:parameter|value)=.*\)$", re.DOTALL)
_OPENAI_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_ABORTED = "abort"
_encode = msgspec.json.Encoder().encode


def engine_body(call: Call) -> Json:
    """The client's body with what is ours to say: model, priority, id, and a usage chunk."""
    try:
        body = msgspec.json.decode(call.body, type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"The body is not a JSON object: {error}") from None
    body |= {
        "model": call.upstream,
        "priority": int(call.service_class),
        "request_id": call.id.hex,
    }
    if call.endpoint is Endpoint.EMBEDDINGS:
        if body.setdefault("encoding_format", "float") not in ("float", "base64"):
            raise RefusedError("'encoding_format' is float or base64.", param="encoding_format")
        return body
    options = body.pop("stream_options", None)
    body["stream"] = call.stream
    if call.stream:
        body["stream_options"] = {**_options(options), "include_usage": True}
    return body


def whole(answer: Json, model: str) -> Answer:
    """An answer that came as a whole; raises PassingError if the engine was made to abort it."""
    answer["model"] = model
    for choice in answer.get("choices", ()):
        _tidy_choice(choice)
    return Answer(body=_encode(_without_nulls(answer)), usage=_usage(answer.get("usage")))


class ChunkReader:
    """Reads the frames of one stream; ``error`` is vLLM's error object, once there was one."""

    def __init__(self, call: Call) -> None:
        self.error: Json | None = None
        self.started = False
        self._model = call.model
        self._usage_asked = _asks_usage(call.body)
        self._usage = Usage()
        self._done = False

    def read(self, frame: str) -> bytes | None:
        """The chunk for the client, if the frame holds one."""
        data = frame.removeprefix("data:").strip().encode()
        if data == DONE:
            self._done = True
            return None
        chunk: Json = msgspec.json.decode(data)
        self.error = chunk.get("error")
        if self.error is not None:
            return None
        if chunk.get("usage") is not None:
            self._usage = _usage(chunk["usage"])
        if not self._usage_asked:
            chunk.pop("usage", None)
            if not chunk["choices"]:
                return None
        self.started = True
        return self._chunk(chunk)

    def answer(self) -> Answer:
        """The end of the stream; raises PassingError if it has not been reached."""
        if not (self._done and self.started):
            raise PassingError("vLLM's stream ended before its end.")
        return Answer(usage=self._usage)

    def _chunk(self, chunk: Json) -> bytes:
        chunk["model"] = self._model
        for choice in chunk["choices"]:
            _tidy_choice(choice)
        chunk = _without_nulls(chunk)
        if self._usage_asked:
            chunk.setdefault("usage", None)
        return _encode(chunk)


def refused(call: Call, status: int, message: str, param: str | None) -> RefusedError:
    """vLLM's error as OpenAI would put it; raises PassingError for what may pass."""
    message = _REPR.sub("", message)
    if status in PASSING_STATUSES or (status >= 500 and status != NOT_IMPLEMENTED):
        kind = "invalid_request_error" if status < 500 else "server_error"
        raise PassingError(
            f"vLLM answered {status}",
            detail=message,
            status=status,
            body=error_body(message, kind),
        )
    if _TOO_LONG.search(message):
        return RefusedError(message, param=PROMPTS[call.endpoint], code="context_length_exceeded")
    return RefusedError(message, status=400 if status == NOT_IMPLEMENTED else status, param=param)


def invalid(place: Sequence[int | str], message: str) -> RefusedError:
    """A body that vLLM's model does not take, by the first of its errors."""
    param = str(place[0]) if place else None
    if message == "Field required" and len(place) == 1:
        return RefusedError(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    return RefusedError(f"Invalid value for '{param}': {message}.", param=param)


def unknown_model(call: Call) -> RefusedError:
    return RefusedError(
        f"The model '{call.model}' does not exist.",
        status=404,
        param="model",
        code="model_not_found",
    )


def unsupported(call: Call) -> RefusedError:
    return RefusedError(
        f"The model '{call.model}' does not support {call.endpoint}.",
        param="model",
        code="unsupported_endpoint",
    )


def _tidy_choice(choice: Json) -> None:
    """Drop in place what OpenAI has not, and keep the nulls that it has."""
    reason = choice.get("finish_reason")
    if reason == _ABORTED:
        raise PassingError("The engine aborted the request.")
    if reason is not None and reason not in _OPENAI_REASONS:
        choice["finish_reason"] = "stop"
    for part in ("message", "delta"):
        message = choice.get(part)
        if message is not None:
            kept = {"content", "refusal"} if part == "message" else set()
            if not message.get("tool_calls"):
                message.pop("tool_calls", None)
            choice[part] = {k: v for k, v in message.items() if v is not None or k in kept}
    for name in [name for name, value in choice.items() if value is None]:
        if name not in ("finish_reason", "logprobs"):
            del choice[name]


def _without_nulls(answer: Json) -> Json:
    tidy = {name: value for name, value in answer.items() if value is not None}
    if "usage" in tidy:
        tidy["usage"] = {
            k: _without_nulls(v) if isinstance(v, dict) else v
            for k, v in tidy["usage"].items()
            if v is not None
        }
    return tidy


def _usage(usage: Json | None) -> Usage:
    if usage is None:
        return Usage()
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
    )


def _options(options: object) -> Json:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise RefusedError("'stream_options' is an object.", param="stream_options")
    return options


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Streamed(msgspec.Struct):
    stream_options: _StreamOptions | None = None


def _asks_usage(body: bytes) -> bool:
    try:
        options = msgspec.json.decode(body, type=_Streamed).stream_options
    except msgspec.DecodeError:
        return False
    return options is not None and bool(options.include_usage)
