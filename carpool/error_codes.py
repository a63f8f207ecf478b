"""The codes by which errors are counted: a set, for providers may send any."""

from typing import Final

import msgspec

CODES: Final = frozenset(
    {
        # Carpool's own, to clients
        "body_stalled",
        "csrf",
        "empty_array",
        "idempotency_key_reused",
        "insufficient_permissions",
        "invalid_api_key",
        "invalid_file_format",
        "invalid_form",
        "invalid_json",
        "invalid_range",
        "invalid_request",
        "invalid_route",
        "invalid_state",
        "invalid_type",
        "invalid_upload",
        "invalid_value",
        "method_not_allowed",
        "missing_required_parameter",
        "model_not_found",
        "no_session",
        "not_a_worker",
        "not_found",
        "request_too_large",
        "route_not_found",
        "service_unavailable",
        "still_waiting",
        "too_many_watchers",
        "unknown_url",
        "worker_dead",
        # of requests that ran, or did not
        "backend_error",
        "batch_cancelled",
        "batch_expired",
        "client_disconnected",
        "context_length_exceeded",
        "deadline_exceeded",
        "engine_killed",
        "request_cancelled",
        "simulated",
        "stream_interrupted",
        "token_limit_exceeded",
        "unsupported_endpoint",
        # OpenAI's
        "billing_hard_limit_reached",
        "content_filter",
        "content_policy_violation",
        "insufficient_quota",
        "invalid_prompt",
        "rate_limit_exceeded",
        "server_error",
        "string_above_max_length",
        "unsupported_parameter",
        "unsupported_value",
    }
)
OTHER = "other"
NONE = "none"
"""Of an error without a code."""


class _Error(msgspec.Struct):
    code: str | int | float | bool | None = None


class _Envelope(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Envelope).decode


def counted(code: str | None) -> str:
    """The code under which an error is counted."""
    if code is None:
        return NONE
    return code if code in CODES else OTHER


def code_of(body: bytes) -> str:
    """The same of an error's JSON; `OTHER` where it is in no shape of OpenAI's."""
    try:
        code = _decode(body).error.code
    except (msgspec.DecodeError, UnicodeDecodeError):
        return OTHER
    return counted(code) if isinstance(code, str | None) else OTHER
