"""A chat completion's body as that of a background response, with nothing lost. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from workers.provider_batches.chat_body import (
    Assistant,
    Chat,
    Definition,
    Developer,
    Image,
    JsonObject,
    JsonSchema,
    NamedChoice,
    PlainText,
    System,
    Text,
    Tool,
    User,
)

METADATA_KEY = "carpool_request"
METADATA_PAIRS = 16
LEAST_OUTPUT_TOKENS = 16
"""A response is refused that may have fewer."""

Json = dict[str, Any]


class UntranslatableError(Exception):
    """The body has no equal as a response."""


class Request(Struct, frozen=True):
    """A body for ``POST /v1/responses``; ``kept``: the client asked the provider to store it."""

    body: bytes
    kept: bool


_decode_chat = msgspec.json.Decoder(Chat).decode
_encode = msgspec.json.Encoder().encode


def request(chat: bytes, *, window: str, name: str) -> Request:
    """The background response that a chat asks for; ``name`` is what it carries as metadata.

    Raises UntranslatableError where a field of the body, or its value, has no equal.
    """
    try:
        body = _decode_chat(chat)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntranslatableError(str(error)) from None
    metadata = body.metadata or {}
    if len(metadata) >= METADATA_PAIRS or METADATA_KEY in metadata:
        raise UntranslatableError("The metadata has no room.")
    reasoning = None if body.reasoning_effort is None else {"effort": body.reasoning_effort}
    fields: Json = {
        "model": body.model,
        "input": _input(body),
        "tools": None if body.tools is None else [_tool(tool.function) for tool in body.tools],
        "tool_choice": _tool_choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
        "text": _format(body),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_output_tokens": _most_tokens(body),
        "reasoning": reasoning,
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "service_tier": "default",
        "metadata": {**metadata, METADATA_KEY: name},
        "background": True,
        "background_options": {"completion_window": window},
        "store": True,
    }
    said = {field: value for field, value in fields.items() if value is not None}
    return Request(_encode(said), kept=body.store is True)


def _input(body: Chat) -> list[Json]:
    found: list[Json] = []
    for message in body.messages:
        match message:
            case System():
                found.append({"role": "system", "content": _content(message.content)})
            case Developer():
                found.append({"role": "developer", "content": _content(message.content)})
            case User():
                found.append({"role": "user", "content": _content(message.content)})
            case Assistant():
                found += _said_before(message)
            case Tool():
                found.append(
                    {
                        "type": "function_call_output",
                        "call_id": message.tool_call_id,
                        "output": _content(message.content),
                    }
                )
    return found


def _content(content: str | Sequence[Text | Image]) -> str | list[Json]:
    if isinstance(content, str):
        return content
    return [
        {"type": "input_text", "text": part.text}
        if isinstance(part, Text)
        else {
            "type": "input_image",
            "image_url": part.image_url.url,
            "detail": part.image_url.detail,
        }
        for part in content
    ]


def _said_before(message: Assistant) -> list[Json]:
    calls = message.tool_calls or []
    if not message.content and not calls:
        raise UntranslatableError("A message of the assistant says nothing.")
    text = [{"role": "assistant", "content": message.content}] if message.content else []
    return text + [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.function.name,
            "arguments": call.function.arguments,
        }
        for call in calls
    ]


def _tool(function: Definition) -> Json:
    tool: Json = {
        "type": "function",
        "name": function.name,
        "parameters": function.parameters,
        # A response takes a missing one for true, a chat for false.
        "strict": function.strict is True,
    }
    return tool if function.description is UNSET else tool | {"description": function.description}


def _tool_choice(body: Chat) -> str | Json | None:
    if isinstance(body.tool_choice, NamedChoice):
        return {"type": "function", "name": body.tool_choice.function.name}
    return body.tool_choice


def _format(body: Chat) -> Json | None:
    text: Json = {}
    match body.response_format:
        case PlainText():
            text["format"] = {"type": "text"}
        case JsonObject():
            text["format"] = {"type": "json_object"}
        case JsonSchema(json_schema=schema):
            text["format"] = {
                "type": "json_schema",
                "name": schema.name,
                "schema": schema.schema,
                "strict": schema.strict is True,
            }
            if schema.description is not UNSET:
                text["format"]["description"] = schema.description
    if body.verbosity is not None:
        text["verbosity"] = body.verbosity
    return text or None


def _most_tokens(body: Chat) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise UntranslatableError("It has two limits of tokens.")
    most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    if most is not None and most < LEAST_OUTPUT_TOKENS:
        raise UntranslatableError(f"A response may have {LEAST_OUTPUT_TOKENS} tokens at least.")
    return most
