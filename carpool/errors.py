"""Every error of Carpool, in OpenAI's shape.

CarpoolError
├── APIError                     what a client is told; carries the HTTP status
│   ├── InvalidRequest           400
│   ├── Unauthorized             401
│   ├── Forbidden                403
│   ├── NotFound                 404
│   ├── MethodNotAllowed         405
│   ├── Conflict                 409, not to be retried
│   ├── BodyTooLarge             413
│   ├── IdempotencyMismatch      422
│   ├── Unavailable              503, to be retried
│   └── Failed                   500, the request ran and cannot succeed
├── BackendError                 what a backend reports of one request
│   ├── PassingError             the request returns to the queue and is tried again
│   └── EngineDied               the engine is gone, and with it all that it held
├── FileMissing                  the file store has no such object
├── StoreAway                    the file store cannot be reached, or cannot take more
└── ConfigurationError           a setting is wrong; names its key, never a secret
"""

from typing import ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    error: ErrorBody


class CarpoolError(Exception):
    """The root of all."""

    @property
    def summary(self) -> str:
        """What may be logged of it: nothing of a prompt, an answer or a key."""
        return str(self)


class APIError(CarpoolError):
    """An error that reaches a client.

    ``retry`` is sent as ``x-should-retry`` where it is not None, ``retry_after_seconds`` as
    ``retry-after`` (the SDK honours values from 0 to 120; COMPAT section 3).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_seconds = retry_after_seconds

    @property
    def summary(self) -> str:
        """Its kind and code, for the message may repeat what the client has sent."""
        return f"{type(self).__name__} ({self.code or self.status})"

    def body(self) -> bytes:
        """The JSON of ``{"error": {message, type, param, code}}``."""
        return error_body(self.message, self.type, param=self.param, code=self.code)


class InvalidRequest(APIError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(APIError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class Forbidden(APIError):
    status = 403
    type = "invalid_request_error"
    default_code = "insufficient_permissions"


class NotFound(APIError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(APIError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class Conflict(APIError):
    status = 409
    type = "invalid_request_error"
    retry = False


class BodyTooLarge(APIError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class IdempotencyMismatch(APIError):
    status = 422
    type = "invalid_request_error"
    default_code = "idempotency_key_reused"


class Unavailable(APIError):
    status = 503
    type = "server_error"
    default_code = "service_unavailable"
    retry = True


class Failed(APIError):
    status = 500
    type = "server_error"
    retry = False


class BackendError(CarpoolError):
    """What a backend raises instead of an answer."""


class PassingError(BackendError):
    """A failure that another attempt may not meet: a connection, a 429, a 5xx.

    ``status`` and ``body`` (OpenAI's error JSON) are what the client gets when no attempt is left;
    ``retry_after_seconds`` is the provider's own wish. One that ``counts`` not is no failure of the
    request, and uses up none of its attempts: a rate limit. One that is ``paid`` may cost money
    each time. ``detail`` is what the backend said of it, which may repeat the prompt: of the
    reason, but never logged.
    """

    def __init__(
        self,
        reason: str,
        *,
        detail: str | None = None,
        status: int = 502,
        body: bytes | None = None,
        retry_after_seconds: float | None = None,
        counts: bool = True,
        paid: bool = False,
    ) -> None:
        self.reason = reason if detail is None else f"{reason}: {detail}"
        super().__init__(self.reason)
        self._summary = reason
        self.counts = counts
        self.paid = paid
        self.status = status
        self.body = body or error_body(self.reason, "server_error", code="backend_error")
        self.retry_after_seconds = retry_after_seconds

    @property
    def summary(self) -> str:
        """The reason without its detail."""
        return self._summary


class EngineDied(BackendError):
    """The engine process is gone; every request that it held is lost, none is to blame yet."""


class FileMissing(CarpoolError):
    """The file store has no object under a key."""


class StoreAway(CarpoolError):
    """The file store failed for a reason that may pass; names the object and never a secret."""


class ConfigurationError(CarpoolError):
    """A setting cannot be used; the message names its key and never its secret."""


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> bytes:
    """OpenAI's error JSON."""
    return msgspec.json.encode(ErrorEnvelope(ErrorBody(message, kind, param, code)))
