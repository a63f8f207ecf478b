"""A lasting error inside a backend."""

from carpool.errors import error_body
from workers.backends.protocol import Answer


class RefusedError(Exception):
    """On its way to becoming ``answer``, which is OpenAI's error JSON under its status."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.answer = Answer(status=status, body=error_body(message, kind, param=param, code=code))
