"""The file store: local disk, or S3, GCS or Azure, chosen by one URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from carpool.settings import Settings
from carpool.store.local import LocalStore
from carpool.store.protocol import FileStore, Writer

__all__ = ["FileStore", "Writer", "open_store"]


def open_store(settings: Settings) -> FileStore:
    """The store of ``files_url``; ``DATA_DIR/files`` where it is not set.

    Raises ConfigurationError where it cannot be used.
    """
    url = settings.files_url
    if url is None:
        return LocalStore(settings.directory / "files")
    if url.startswith("file:"):
        return LocalStore(Path(unquote(urlsplit(url).path)))
    from carpool.store.objects import ObjectStore  # a megabyte of library, for who has a bucket

    return ObjectStore(url)
