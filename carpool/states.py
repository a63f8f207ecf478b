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
    """Failed for a passing reason, or is a stream that begins anew; the sweep promotes it to
    WAITING at ``not_before``."""

    SUSPECT = 3
    """Was lost with its run at least twice; may be claimed only in a small group, by itself when
    lost again. Set by the sweep and by an engine's death; left by claim or cancel."""

    FOLLOWING = 4
    """Waits for the answer of an identical request, its leader, and reads its chunks. Ended with
    the leader's success, set to WAITING or BACKING_OFF by its failure; left by cancel. Where the
    leader is gone, by the sweep."""


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


class FileState(IntEnum):
    """The state of a row of ``files`` or ``upload_parts``, whose bytes lie in the file store."""

    PENDING = 0
    """Being written by a process (``writer``), and seen by nobody else. Left by its end; what a
    dead process leaves behind is removed by the cleaning job."""

    READY = 1
    """Whole, and may be read. Left by a delete, or when it expires."""

    DELETED = 2
    """Gone for clients. The cleaning job removes bytes and row once no open batch reads it."""


class UploadState(IntEnum):
    """The state of a row of ``uploads``: a file that comes in parts."""

    PENDING = 0
    """Takes parts. Left by complete, cancel, or, at ``expires_at``, by the cleaning. A completion
    that is cut off leaves it as it is, and its parts with it."""

    COMPLETED = 1
    """Became the file ``file_id``; its parts are removed by the cleaning."""

    CANCELLED = 2
    """Its parts are removed by the cleaning."""

    EXPIRED = 3
    """Was not completed in time; its parts are removed by the cleaning."""


class BatchStatus(IntEnum):
    """The status of a batch; those below COMPLETED are open, and must be moved on by someone."""

    VALIDATING = 0
    """The ingestion job reads the file; no row is queued yet. A crash lets it begin anew."""

    IN_PROGRESS = 1
    """The file is valid; its lines are being queued, or all are. Each chunk of lines commits with
    the place where the file is to be read on, so that a crash doubles none."""

    FINALIZING = 2
    """Every line has its result, or, when it expires, none will come; files are being written. A
    crash lets the finalizer write the same files again."""

    CANCELLING = 3
    """Nothing of it is claimed any more; the sweep ends what is left, then files are written."""

    COMPLETED = 4
    FAILED = 5
    EXPIRED = 6
    CANCELLED = 7


class ProviderBatchState(IntEnum):
    """The state of a row of ``provider_batches``; its keeper alone moves it on. Queue rows stay its
    own until they are answered, or the provider says that they will not be.

    One that goes as ``background`` responses has no file, and is never UPLOADED."""

    GATHERED = 0
    """Its rows are its own, and nothing of it is at the provider for certain. Left by the upload of
    its file, or before its first response is created, or by its end where no row is left, or none
    can go. A crash leaves a file at the provider perhaps, which is looked for before another is
    uploaded."""

    UPLOADED = 1
    """``input_file`` lies at the provider. Left by the submission, by its end where no row is left,
    or back to GATHERED where some were cancelled. A crash leaves a batch at the provider perhaps,
    which carries our id and is looked for before another is created."""

    SUBMITTED = 2
    """The provider computes it as ``provider_id``. Left by its end, when the provider's files are
    read and each row has ended or returned. A crash lets the next keeper read the files anew: what
    was stored is its own no more.

    In the background its rows become responses, each in ``provider_responses`` from its creation
    until it is settled. A crash lets the next keeper create those that are not noted, and ask for
    the others."""

    ENDED = 3
    """It owns no row, and nobody keeps it. ``error`` says why, where it gave no answers."""


class Endpoint(StrEnum):
    """An API path that becomes a request; the value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


ENDPOINTS: Final = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS)
"""An endpoint's place is its code in the tables: append only."""
