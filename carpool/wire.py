"""The bodies that clients send, as far as Carpool itself must understand them.

What is not named here is accepted and passed on unread. Bounds are those of OpenAI's reference.
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from carpool.states import Endpoint

MAX_STOP_SEQUENCES = 4
MAX_METADATA_PAIRS = 16


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Message(msgspec.Struct):
    role: str


Stop = str | Annotated[list[str], Meta(max_length=MAX_STOP_SEQUENCES)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=MAX_METADATA_PAIRS),
]
Tokens = Annotated[int, Meta(ge=0)]


class Body(msgspec.Struct, kw_only=True):
    """What every endpoint has."""

    model: Annotated[str, Meta(min_length=1)]
    user: str | None = None
    service_tier: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Generation(Body, kw_only=True):
    """What chat and completions share."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: Stop | None = None
    max_tokens: Tokens | None = None
    logit_bias: dict[str, float] | None = None


class ChatBody(Generation, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=128)] | None = None


Prompts = Annotated[list[str | int | list[int]], Meta(min_length=1)]


class CompletionBody(Generation, kw_only=True):
    prompt: str | Prompts
    best_of: Annotated[int, Meta(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    suffix: str | None = None


class EmbeddingBody(Body, kw_only=True):
    input: Annotated[str, Meta(min_length=1)] | Prompts
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: str | None = None


DECODERS: dict[Endpoint, Any] = {
    Endpoint.CHAT: msgspec.json.Decoder(ChatBody),
    Endpoint.COMPLETIONS: msgspec.json.Decoder(CompletionBody),
    Endpoint.EMBEDDINGS: msgspec.json.Decoder(EmbeddingBody),
}

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def holds_nul(json: bytes) -> bool:
    """Whether a text of a JSON document holds the character NUL, which is no text."""
    return b"\\u0000" in json and _NUL.search(json) is not None
