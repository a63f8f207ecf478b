"""The JSON that goes to a provider and comes back.

Only what has to change is touched; every other field, known or not, keeps its bytes.
"""

import re
from dataclasses import dataclass

import msgspec

from carpool.states import Endpoint
from workers.backends.protocol import Call, Usage

Fields = dict[str, msgspec.Raw]

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(Fields).decode
KEY_FIELD = "prompt_cache_key"
_TRUE = msgspec.Raw(b"true")
_NULL = b"null"
_KEYED = frozenset({Endpoint.CHAT})
"""Those that take a ``prompt_cache_key``."""
_ABORTED = re.compile(rb'"finish_reason"\s*:\s*"abort"')


class _CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None


_usage = msgspec.json.Decoder(_Usage).decode


class NotAnAnswerError(Exception):
    """What came with status 200 is no answer: cut short, HTML, an error, or an aborted run."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request for the provider; ``usage_asked`` is whether the client wants the usage chunk."""

    body: bytes
    usage_asked: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a stream for the client; empty where it was ours alone."""

    body: bytes
    usage: Usage | None


def outgoing(call: Call, *, group: bool = False) -> Outgoing:
    """The client's body under the upstream model's name; a stream always reports its usage.

    With ``group`` a client that set no ``prompt_cache_key`` gets that of its prefix group. Raises
    msgspec.DecodeError where the body is not a JSON object.
    """
    fields = _fields(call.body)
    fields["model"] = msgspec.Raw(_encode(call.upstream))
    if group and call.endpoint in _KEYED and bytes(fields.get(KEY_FIELD, _NULL)) == _NULL:
        fields[KEY_FIELD] = msgspec.Raw(_encode(cache_key(call)))
    options = fields.pop("stream_options", None)
    fields.pop("stream", None)
    usage_asked = False
    if call.stream:
        stream_options: Fields = {}
        if options is not None and bytes(options) != _NULL:
            stream_options = msgspec.json.decode(options, type=Fields)
        usage_asked = bytes(stream_options.get("include_usage", b"")) == b"true"
        stream_options["include_usage"] = _TRUE
        fields["stream"] = _TRUE
        fields["stream_options"] = msgspec.Raw(_encode(stream_options))
    return Outgoing(_encode(fields), usage_asked)


def cache_key(call: Call) -> str:
    """One for all of a team's requests whose first 1,024 bytes are the same.

    Those are the leading 32 bits of the prefix key; OpenAI caches from 1,024 tokens up, and a key
    of many more bits would part requests that could share.
    """
    return f"carpool-{call.team_id}-{call.prefix_key >> 32 & 0xFFFFFFFF:08x}"


def answer(body: bytes, model: str) -> tuple[bytes, Usage]:
    """A whole answer under the client's name of the model, and what it used."""
    fields = _object(body)
    if "choices" not in fields and "data" not in fields:
        raise NotAnAnswerError("the answer has neither choices nor data")
    _refuse_abort(fields)
    fields["model"] = msgspec.Raw(_encode(model))
    return _encode(fields), usage(fields.get("usage")) or Usage()


def chunk(data: bytes, model: str, *, usage_asked: bool) -> Chunk:
    """A chunk under the client's name of the model, without the usage that only we asked for."""
    fields = _object(data)
    choices = fields.get("choices")
    if choices is None:
        return Chunk(b"", None)
    _refuse_abort(fields)
    used = usage(fields.get("usage"))
    if not usage_asked:
        if used is not None and bytes(choices) == b"[]":
            return Chunk(b"", used)
        fields.pop("usage", None)
    fields["model"] = msgspec.Raw(_encode(model))
    return Chunk(_encode(fields), used)


def usage(raw: msgspec.Raw | None) -> Usage | None:
    """OpenAI's usage object; None where there is none that can be read."""
    if raw is None or bytes(raw) == _NULL:
        return None
    try:
        used = _usage(raw)
    except msgspec.DecodeError:
        return None
    details = used.prompt_tokens_details
    return Usage(
        prompt_tokens=used.prompt_tokens or 0,
        cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
        written_tokens=(details.cache_write_tokens or 0) if details is not None else 0,
        completion_tokens=used.completion_tokens or 0,
    )


def _object(body: bytes) -> Fields:
    try:
        fields = _fields(body)
    except msgspec.DecodeError as error:
        raise NotAnAnswerError(f"what it sent is not a JSON object: {error}") from None
    if bytes(fields.get("error", _NULL)) != _NULL:
        raise NotAnAnswerError("it sent an error under status 200")
    return fields


def _refuse_abort(fields: Fields) -> None:
    """vLLM ends the requests of a server that stops with ``abort``, as if they were complete."""
    if _ABORTED.search(fields.get("choices", b"")):
        raise NotAnAnswerError("the provider aborted the request")
