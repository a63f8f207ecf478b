"""From a body's bytes to what Carpool must know of it, or a clear refusal."""

import hashlib
import re
from typing import Final
from uuid import UUID

import msgspec

from carpool.errors import InvalidRequest
from carpool.prefix import prefix_key
from carpool.states import Endpoint, ServiceClass
from carpool.wire import DECODERS, Body, CompletionBody, EmbeddingBody, Generation, holds_nul

PROMPT_FIELDS: Final = {
    Endpoint.CHAT: b'"messages"',
    Endpoint.COMPLETIONS: b'"prompt"',
    Endpoint.EMBEDDINGS: b'"input"',
}
MAX_NAME_LENGTH = 256
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")
_EMPTY = re.compile(r"^Expected `(?:array|str)` of length >= 1$")


class Intake(msgspec.Struct, frozen=True):
    """A body that may be stored: what was read of it, and hashes of it."""

    endpoint: Endpoint
    raw: bytes
    model: str
    stream: bool
    include_usage: bool
    person: str | None
    service_class: ServiceClass
    fingerprint: UUID
    prefix_key: int
    deterministic: bool
    """Whether asked again it would be answered alike."""


def read(endpoint: Endpoint, raw: bytes, *, team_id: int) -> Intake:
    """Decode and check a body once. Raises InvalidRequest, with the parameter's path."""
    body = _decode(endpoint, raw)
    if len(body.model) > MAX_NAME_LENGTH:
        raise InvalidRequest("The model's name is too long.", param="model")
    if endpoint is Endpoint.EMBEDDINGS and body.stream:
        raise InvalidRequest("Embeddings cannot be streamed.", param="stream")
    _check_prompts(body)
    options = body.stream_options
    begin = raw.find(PROMPT_FIELDS[endpoint])
    return Intake(
        endpoint,
        raw,
        body.model,
        bool(body.stream),
        options is not None and bool(options.include_usage),
        body.user,
        ServiceClass.FLEX if body.service_tier == "flex" else ServiceClass.INTERACTIVE,
        fingerprint(team_id, endpoint, raw),
        prefix_key(raw[max(begin, 0) :]),
        _deterministic(body),
    )


def fingerprint(team_id: int, path: str, raw: bytes) -> UUID:
    """By which a retry is known: 128 bits of SHA-256 over team, method, path and body."""
    digest = hashlib.sha256(b"%d POST %s\n" % (team_id, path.encode()))
    digest.update(raw)
    return UUID(bytes=digest.digest()[:16])


def _deterministic(body: Body) -> bool:
    match body:
        case EmbeddingBody():
            return True
        case Generation():
            one = body.n in (None, 1) and getattr(body, "best_of", None) in (None, 1)
            return body.temperature == 0 and one
    return False


def _check_prompts(body: Body) -> None:
    """Refuse a list that mixes texts and token ids, which no engine takes."""
    match body:
        case CompletionBody(prompt=list() as prompts):
            param = "prompt"
        case EmbeddingBody(input=list() as prompts):
            param = "input"
        case _:
            return
    if len({type(prompt) for prompt in prompts}) > 1:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected texts, or token ids, or lists of token ids.",
            param=param,
            code="invalid_type",
        )


def _decode(endpoint: Endpoint, raw: bytes) -> Body:
    try:
        if not raw.isascii():
            raw.decode()
        body: Body = DECODERS[endpoint].decode(raw)
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. "
            f"(The OpenAI API expects a JSON payload: {error})",
            code="invalid_json",
        ) from None
    except RecursionError:
        raise InvalidRequest(
            "The JSON body of your request is nested too deeply.", code="invalid_json"
        ) from None
    if holds_nul(raw):
        raise _nul(raw)
    return body


def _nul(raw: bytes) -> InvalidRequest:
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    param = next((name for name, value in fields.items() if holds_nul(bytes(value))), None)
    where = "Invalid body" if param is None else f"Invalid value for '{param}'"
    return InvalidRequest(
        f"{where}: a text holds the character NUL (\\u0000).", param=param, code="invalid_value"
    )


def refusal(reason: str) -> InvalidRequest:
    """What a client is told, from msgspec's words for what it found."""
    place = _PLACE.match(reason)
    assert place is not None
    what, path = place["what"], (place["path"] or "").removesuffix("[...]") or None
    missing = _MISSING.match(what)
    if missing is not None:
        field = missing["field"]
        param = f"{path}.{field}" if path else field
        return InvalidRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    if _EMPTY.match(what):
        return InvalidRequest(
            f"Invalid '{path}': it is empty. Expected at least one element.",
            param=path,
            code="empty_array",
        )
    code = "invalid_type" if ", got `" in what else "invalid_value"
    where = f"Invalid value for '{path}'" if path else "Invalid body"
    return InvalidRequest(f"{where}: {what[0].lower()}{what[1:]}.", param=path, code=code)
