"""The key that goes to a provider."""

import os

from carpool.errors import ConfigurationError
from carpool.settings import OpenAISettings

NO_KEY = "none"
"""What the SDK, which insists on a key, sends to a provider that wants none."""


def key_of(backend: str, settings: OpenAISettings) -> str:
    """As set, or as the environment holds it; raises ConfigurationError where that has none."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    variable = settings.key_variable
    if variable is None:
        return NO_KEY
    try:
        return os.environ[variable]
    except KeyError:
        raise ConfigurationError(f"backends.{backend}.api_key_env: {variable} is not set") from None
