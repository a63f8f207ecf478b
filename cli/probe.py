"""One small GET to a Carpool, by the standard library alone."""

from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import msgspec

TIMEOUT_SECONDS = 5.0


def get(url: str, *, key: str | None = None) -> tuple[int, bytes] | None:
    """Status and body; None where nothing answers. Blocks."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def first_model(base_url: str, key: str) -> str | None:
    """The first model that the API lists."""
    answer = get(f"{base_url}/models", key=key)
    if answer is None or answer[0] != 200:
        return None
    models = msgspec.json.decode(answer[1], type=_Models).data
    return models[0].id if models else None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]
