"""Errors in OpenAI's shape."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

Json = dict[str, Any]

_BY_STATUS = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    404: ("The resource does not exist.", "invalid_request_error", None),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded.", "server_error", None),
}


class Refused(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    def response(self) -> Response:
        return json_response({"error": self.error}, self.status, self.headers)


def missing(name: str) -> Refused:
    return Refused(
        f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name
    )


def invalid(name: str) -> Refused:
    return Refused(f"Invalid value for '{name}'.", code="invalid_value", param=name)


def error_of(status: int) -> Json:
    """The body that OpenAI sends with a status, where nothing more is known."""
    usual = (
        ("The server had an error while processing your request.", "server_error", None)
        if status >= 500
        else ("The request is invalid.", "invalid_request_error", None)
    )
    message, kind, code = _BY_STATUS.get(status, usual)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    content = msgspec.json.encode(body)
    return Response(content, status, headers, media_type="application/json")


async def refused(_: Request, error: Exception) -> Response:
    """As an exception handler of Starlette."""
    assert isinstance(error, Refused)
    return error.response()


async def json_body(request: Request) -> Json:
    """The request's JSON object; raises `Refused`."""
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(f"We could not parse the JSON body of your request. ({error})") from None
