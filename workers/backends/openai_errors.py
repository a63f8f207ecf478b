"""What a provider's failure means: an error for the client, or a reason to try again."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from carpool.errors import PassingError, error_body
from workers.backends.protocol import Answer

PASSING_STATUSES = frozenset({408, 409, 425, 429})
OPERATOR_STATUSES = frozenset({401, 402})
"""The provider refuses the operator's key or account; the client can do nothing about it."""

RATE_LIMITED = 429
QUOTA_CODE = "insufficient_quota"
TOO_LARGE = "Request too large"
MESSAGE_CHARACTERS = 2000

_PRINTABLE_KEY = re.compile(rb"sk-[A-Za-z0-9_*-]{8,}")


def refuse(backend: str, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    """The lasting error that a client is to see; raises PassingError for what may pass."""
    if status in OPERATOR_STATUSES:
        raise PassingError(
            f"The provider of backend '{backend}' answered {status}: it refuses the key or account "
            "that the operator has set.",
        )
    shaped = openai_shaped(status, body)
    if status in PASSING_STATUSES or status >= 500 or status < 400:
        raise PassingError(
            f"The provider of backend '{backend}' answered {status}.",
            status=status if status >= 400 else 502,
            body=shaped,
            retry_after_seconds=retry_after(headers),
            counts=not is_rate_limit(status, shaped),
        )
    return Answer(status=status, body=shaped)


def is_rate_limit(status: int, shaped: bytes) -> bool:
    """Whether an error in OpenAI's shape passes by waiting alone.

    A 429 also says that the money is spent, or that one request is larger than the whole limit.
    """
    if status != RATE_LIMITED:
        return False
    error = msgspec.json.decode(shaped)["error"]
    return error["code"] != QUOTA_CODE and not error["message"].startswith(TOO_LARGE)


def openai_shaped(status: int, body: bytes) -> bytes:
    """The body itself if it is OpenAI's error, else that error in OpenAI's shape; no key in it."""
    body = _PRINTABLE_KEY.sub(b"sk-...", body)
    kind = "invalid_request_error" if status < 500 else "server_error"
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return error_body(f"The provider answered {status} without a JSON body.", kind)
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return error_body(_text(error), kind)
    if error is not found and _is_openai(error):
        return body
    message = error.get("message", error.get("detail", error))
    return error_body(
        _text(message),
        error["type"] if isinstance(error.get("type"), str) else kind,
        param=error["param"] if isinstance(error.get("param"), str) else None,
        code=error["code"] if isinstance(error.get("code"), str) else None,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks us to wait (RFC 9110, 10.2.3, and OpenAI's milliseconds)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is not None or given is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def _is_openai(error: dict[str, Any]) -> bool:
    return (
        isinstance(error.get("message"), str)
        and isinstance(error.get("type"), str)
        and isinstance(error.get("param", 0), str | None)
        and isinstance(error.get("code", 0), str | None)
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _text(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:MESSAGE_CHARACTERS]
