"""Small questions to a Carpool: is it there, and which models has it?"""

from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

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
    """The first model that the API lists; None where it does not answer. Blocks."""
    import openai

    try:
        with openai.OpenAI(
            base_url=base_url, api_key=key, timeout=TIMEOUT_SECONDS, max_retries=0
        ) as client:
            return next((model.id for model in client.models.list()), None)
    except openai.OpenAIError:
        return None
