"""A response as the provider shows it, and as the chat completion that a client reads. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from carpool.errors import PassingError, error_body
from workers.backends import openai_body
from workers.backends.openai_body import NotAnAnswerError
from workers.backends.protocol import Answer
from workers.provider_batches.reading import CANCELLED, EXPIRED, unanswered

REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""Why a response may be incomplete, and its finish reason as a chat completion."""

LASTING = frozenset(
    {
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "image_file_not_found",
    }
)
"""Of the codes with which a response fails: those that another attempt would meet, too."""
LASTING_STATUS = 400

Json = dict[str, Any]


class _Part(Struct):
    type: str
    text: str = ""
    refusal: str = ""


class _Item(Struct):
    type: str
    content: list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class _InputDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class ResponseFault(Struct):
    """Why the provider gave no answer."""

    code: str | None = None
    message: str | None = None
    param: str | None = None


class _Incomplete(Struct):
    reason: str | None = None


class Response(Struct):
    """A response as the provider shows it."""

    id: str
    status: str
    model: str = ""
    created_at: float = 0.0
    output: list[_Item] = []
    usage: _Usage | None = None
    error: ResponseFault | None = None
    incomplete_details: _Incomplete | None = None
    service_tier: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""
        return self.status not in ("queued", "in_progress")

    @property
    def cut(self) -> str | None:
        """Why it is incomplete."""
        return self.incomplete_details.reason if self.incomplete_details is not None else None


_encode = msgspec.json.Encoder().encode


def answer(response: Response, *, backend: str, model: str, late: bool) -> Answer | PassingError:
    """What one that is over says of its request, ``model`` being the client's name of it.

    ``late``: it was cancelled because its window had passed.
    """
    match response.status:
        case "completed" | "incomplete":
            try:
                body, usage = openai_body.answer(completion(response), model)
            except NotAnAnswerError as error:
                return PassingError(
                    f"The provider of backend '{backend}' failed: {error}.", paid=True
                )
            return Answer(body=body, usage=usage)
        case "cancelled":
            if late:
                return unanswered(EXPIRED, "The response was not done within its window.")
            return unanswered(CANCELLED, "The response was cancelled.")
    fault = response.error or ResponseFault()
    code, message = fault.code, fault.message or "The response failed."
    if code in LASTING:
        body = error_body(message, "invalid_request_error", param=fault.param, code=code)
        return Answer(status=LASTING_STATUS, body=body)
    return unanswered(code, message)


def completion(response: Response) -> bytes:
    """A chat completion of a response that is completed or cut off.

    Raises NotAnAnswerError where it holds what a chat completion cannot.
    """
    unknown = {item.type for item in response.output} - {"message", "function_call", "reasoning"}
    if unknown:
        raise NotAnAnswerError(f"It holds an item of the type '{min(unknown)}'.")
    if response.status == "incomplete" and response.cut not in REASONS:
        raise NotAnAnswerError(f"It is incomplete: {response.cut}.")
    parts = [part for item in response.output for part in item.content or () if _said(item)]
    calls = [item for item in response.output if item.type == "function_call"]
    message: Json = {
        "role": "assistant",
        "content": _joined([part.text for part in parts if part.type == "output_text"]),
        "refusal": _joined([part.refusal for part in parts if part.type == "refusal"]),
        "annotations": [],
    }
    if not parts and not calls:  # cut off while it reasoned, say
        message["content"] = ""
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    reason = REASONS.get(response.cut or "") or ("tool_calls" if calls else "stop")
    fields: Json = {
        "id": f"chatcmpl-{response.id.removeprefix('resp_')}",
        "object": "chat.completion",
        "created": int(response.created_at),
        "model": response.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": _usage(response.usage or _Usage()),
        "service_tier": response.service_tier,
        "system_fingerprint": None,
    }
    return _encode(fields)


def _said(item: _Item) -> bool:
    return item.type == "message"


def _joined(texts: Sequence[str]) -> str | None:
    return "".join(texts) if texts else None


def _usage(used: _Usage) -> Json:
    read = used.input_tokens_details or _InputDetails()
    made = used.output_tokens_details or _OutputDetails()
    total = used.input_tokens + used.output_tokens
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": total if used.total_tokens is None else used.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": read.cached_tokens or 0,
            "cache_write_tokens": read.cache_write_tokens or 0,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": made.reasoning_tokens or 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
