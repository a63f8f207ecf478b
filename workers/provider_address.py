"""Where a provider is, as its spans tell it."""

from urllib.parse import urlsplit

from carpool.span_attributes import SERVER_ADDRESS, SERVER_PORT

HTTPS_PORT, HTTP_PORT = 443, 80
OPENAI_ADDRESS = "api.openai.com"


def address(base_url: str | None) -> dict[str, str | int]:
    """Where a provider is; of its URL nothing else, for it may hold a secret."""
    parts = urlsplit(base_url or "")
    port = parts.port or (HTTP_PORT if parts.scheme == "http" else HTTPS_PORT)
    return {SERVER_ADDRESS: parts.hostname or OPENAI_ADDRESS, SERVER_PORT: port}
