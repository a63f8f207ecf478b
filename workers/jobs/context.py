"""What the jobs of one process share."""

from dataclasses import dataclass
from uuid import UUID

from carpool.doorbell import Doorbell
from carpool.settings import Settings
from carpool.store import FileStore
from db.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class JobContext:
    """``process`` owns the batches that its jobs work on."""

    settings: Settings
    database: Database
    doorbell: Doorbell
    store: FileStore
    process: UUID
