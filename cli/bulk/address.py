"""Which Carpool is spoken to, and with which key."""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carpool.errors import ConfigurationError
from carpool.settings import Settings
from cli.connection import FILE_NAME, read_connection

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """``base_url`` ends in ``/v1``."""

    base_url: str
    api_key: str = field(repr=False)

    def client(self) -> "AsyncOpenAI":
        """A client that leaves retries to :mod:`cli.bulk.asking`; to be closed."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=TIMEOUT_SECONDS
        )


def find_address(settings: Settings) -> Address:
    """OPENAI_BASE_URL with OPENAI_API_KEY, else what `carpool up` left in the data directory.

    A key alone is not used: it may well be the one for OpenAI. Raises ConfigurationError.
    """
    base_url, api_key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if base_url:
        if not api_key:
            raise ConfigurationError("OPENAI_API_KEY: set it to a key of the OPENAI_BASE_URL")
        return Address(base_url=base_url, api_key=api_key)
    stored = read_connection(settings.directory)
    if stored is None:
        raise ConfigurationError(
            "OPENAI_BASE_URL: set it and OPENAI_API_KEY, or run `carpool up` (there is no "
            f"{settings.directory / FILE_NAME})"
        )
    return Address(base_url=stored.base_url, api_key=stored.api_key)
