"""`DATA_DIR/connection.json`: how scripts, and the other commands, reach a running Carpool."""

import os
from pathlib import Path

import msgspec
from pydantic import SecretStr

from carpool.errors import ConfigurationError
from carpool.settings import Settings

FILE_NAME = "connection.json"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content; ``base_url`` ends in ``/v1``."""

    base_url: str
    api_key: str
    admin_key: str
    database_url: str
    redis_url: str


def read_connection(directory: Path) -> Connection | None:
    """The stored connection; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=Connection)
    except (OSError, msgspec.DecodeError):
        return None


def write_connection(directory: Path, connection: Connection) -> None:
    """Replace the file at once; only its owner may read it."""
    beside = directory / f"{FILE_NAME}.new"
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(connection), indent=2) + b"\n")
        file.flush()
        os.fsync(descriptor)
    beside.replace(directory / FILE_NAME)


def connected(settings: Settings, *, redis: bool = True) -> Settings:
    """The settings with the URLs of `carpool up` on the same data directory where they have none.

    Raises ConfigurationError where one that is needed is in neither.
    """
    needed = {"database_url": settings.database_url} | (
        {"redis_url": settings.redis_url} if redis else {}
    )
    missing = [name for name, url in needed.items() if url is None]
    if not missing:
        return settings
    stored = read_connection(settings.directory)
    if stored is None:
        raise ConfigurationError(
            f"{missing[0]}: set CARPOOL_{missing[0].upper()}, or run `carpool up` (there is no "
            f"{settings.directory / FILE_NAME})"
        )
    return settings.model_copy(update={name: SecretStr(getattr(stored, name)) for name in missing})
