"""What all that a process does for one backend has in common."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from carpool.doorbell import Doorbell
from carpool.settings import OpenAIBatchSettings, Settings
from db.database import Database
from workers.map import Map
from workers.provider_batches.provider import Provider
from workers.provider_batches.responses import Responses

FILES_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What the keepers of one run share; ``keeper`` is the run's id."""

    settings: Settings
    backend: OpenAIBatchSettings
    database: Database
    doorbell: Doorbell
    provider: Provider
    responses: Responses
    map: Map
    keeper: UUID
    worker: str
    files: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FILES_AT_ONCE))
    room: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a file takes its share of the enqueued tokens."""
