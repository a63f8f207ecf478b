"""Every error has OpenAI's shape, and makes the stock client raise what OpenAI's would."""

import re

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from api.responses import error_response
from carpool import errors
from carpool.errors import APIError, CarpoolError, PassingError, error_body

EXCEPTIONS: dict[type[APIError], type[openai.APIStatusError]] = {
    APIError: openai.InternalServerError,
    errors.InvalidRequest: openai.BadRequestError,
    errors.Unauthorized: openai.AuthenticationError,
    errors.Forbidden: openai.PermissionDeniedError,
    errors.NotFound: openai.NotFoundError,
    errors.MethodNotAllowed: openai.APIStatusError,
    errors.Conflict: openai.ConflictError,
    errors.BodyTooLarge: openai.APIStatusError,
    errors.IdempotencyMismatch: openai.UnprocessableEntityError,
    errors.Unavailable: openai.InternalServerError,
    errors.Failed: openai.InternalServerError,
}
RETRIED = {errors.Unavailable, APIError}
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def classes(root: type[CarpoolError]) -> list[type[CarpoolError]]:
    found = [root]
    for child in root.__subclasses__():
        found += classes(child)
    return found


@pytest.fixture
def client() -> OpenAI:
    return OpenAI(api_key="sk", base_url="http://localhost")


def test_the_tree_is_as_it_is_drawn() -> None:
    """STYLE rule 10: the tree stands at the top of its module."""
    assert errors.__doc__ is not None
    depths: list[str] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^((?:│   |    |├── |└── )*)([A-Z]\w+)(?: |$)", line):
            depth, name = len(match[1]) // 4, match[2]
            if name == "CarpoolError" or depth:
                del depths[depth:]
                depths.append(name)
                drawn = getattr(errors, name)
                assert [base.__name__ for base in reversed(drawn.__mro__)][-len(depths) :] == depths
    here = {c for c in classes(CarpoolError) if c.__module__ == errors.__name__}
    assert {c.__name__ for c in here} <= set(re.findall(r"[A-Z]\w+", errors.__doc__))


def test_the_map_to_the_clients_exceptions_is_total() -> None:
    mine = {c for c in classes(APIError) if c.__module__ == errors.__name__}
    assert mine == set(EXCEPTIONS)


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_the_stock_client_raises_its_own(client: OpenAI, kind: type[APIError]) -> None:
    error = kind("What happened.", param="p", code="c", retry_after_seconds=3)
    answer = error_response(error, "req_1")
    response = httpx2.Response(
        answer.status_code,
        headers=[(name.decode(), value.decode()) for name, value in answer.raw_headers],
        content=bytes(answer.body),
        request=httpx2.Request("POST", "http://localhost"),
    )
    raised = client._make_status_error_from_response(response)
    assert type(raised) is EXCEPTIONS[kind]
    assert raised.status_code == kind.status
    assert (raised.param, raised.code, raised.request_id) == ("p", "c", "req_1")
    assert raised.message.endswith("What happened.")
    assert client._should_retry(response) == (kind in RETRIED)
    assert client._parse_retry_after_header(response.headers) == 3


@given(texts, st.none() | texts, st.none() | texts)
def test_a_body_is_openais(message: str, param: str | None, code: str | None) -> None:
    error = errors.InvalidRequest(message, param=param, code=code)
    assert msgspec.json.decode(error.body()) == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": code,
        }
    }


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_a_status_says_whose_fault_it_is(kind: type[APIError]) -> None:
    assert kind.type == ("server_error" if kind.status >= 500 else "invalid_request_error")


def test_a_refused_key_says_which_scheme_to_use() -> None:
    answer = error_response(errors.Unauthorized("No."))
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_passing_error_has_a_body_for_the_client_that_no_attempt_is_left_for() -> None:
    error = PassingError("The provider is away.")
    assert error.status == 502
    assert msgspec.json.decode(error.body)["error"]["message"] == "The provider is away."
    own = error_body("Slow down.", "server_error")
    assert PassingError("busy", status=429, body=own).body == own
