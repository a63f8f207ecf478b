"""The states of a request, and who moves it from one to the next."""

from enum import IntEnum, StrEnum
from typing import Final


class ServiceClass(IntEnum):
    """In which order work is served; lower runs first (DESIGN.md, 'Words')."""

    INTERACTIVE = 0
    FLEX = 1
    BATCH = 2


class QueueState(IntEnum):
    """The state of a row of ``queue``, which exists for each request that is not finished."""

    WAITING = 0
    """May be claimed now. Set by submit, release, promote; left by claim or cancel. A crash leaves
    it as it is."""

    CLAIMED = 1
    """Owned by a run (or a provider batch) under an epoch. Left by finish, retry, release, cancel,
    or, when its owner is dead, by the sweep."""

    BACKING_OFF = 2
    """Failed for a passing reason; the sweep promotes it to WAITING at ``not_before``."""

    SUSPECT = 3
    """Was lost with its run at least twice; may be claimed only in a small group, by itself when
    lost again. Set by the sweep and by an engine's death; left by claim or cancel."""


class OwnerKind(IntEnum):
    """What owns a claimed row."""

    NONE = 0
    RUN = 1
    PROVIDER_BATCH = 2


class Outcome(IntEnum):
    """How a request ended; stored once, in ``results``, and never changed."""

    COMPLETED = 0
    FAILED = 1
    CANCELLED = 2
    EXPIRED = 3


class RequestStatus(StrEnum):
    """The status that clients see in a request object."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @classmethod
    def of(cls, outcome: Outcome) -> "RequestStatus":
        """The visible status of an outcome."""
        return cls[outcome.name]


class Endpoint(StrEnum):
    """An API path that becomes a request; the value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


ENDPOINTS: Final = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS)
"""An endpoint's place is its code in the tables: append only."""
