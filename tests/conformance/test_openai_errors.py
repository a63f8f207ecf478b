"""Whatever a provider sends as an error, the client gets OpenAI's shape and no key."""

from email.utils import formatdate
from time import time

import msgspec
import pytest

from workers.backends.openai_errors import openai_shaped, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_a_date() -> None:
    before, date = time(), int(time()) + 30
    found = retry_after({"retry-after": formatdate(date, usegmt=True)})
    assert found is not None
    assert date - time() <= found <= date - before


def test_an_error_of_openais_shape_keeps_its_bytes() -> None:
    body = b'{"error": {"message":"no","type":"t","param":null,"code":null,"more":1}}'
    assert openai_shaped(400, body) == body


def test_no_key_leaves_in_an_error() -> None:
    body = b'{"error": {"message":"bad key sk-abcdefghijkl","type":"t"}}'
    assert b"sk-abcdefghijkl" not in openai_shaped(400, body)


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"3", b'"text"', b"\xff", b"{}", b"[]"])
def test_any_body_becomes_an_error(body: bytes) -> None:
    error = msgspec.json.decode(openai_shaped(500, body))["error"]
    assert error["type"] == "server_error"
    assert isinstance(error["message"], str)
