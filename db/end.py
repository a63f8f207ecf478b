"""Ends requests from outside of a run: cancelled, abandoned, expired, condemned."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from carpool.errors import error_body
from carpool.notices import Finished
from carpool.states import Outcome
from db.database import Fetches
from db.sql import load

END = load("end")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Why requests end: what is stored as their answer, an error in OpenAI's shape."""

    outcome: Outcome
    status: int
    code: str
    message: str

    def body(self) -> bytes:
        """The error JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return error_body(self.message, kind, code=self.code)


CANCELLED = Ending(
    outcome=Outcome.CANCELLED,
    status=409,
    code="request_cancelled",
    message="The request was cancelled.",
)
ABANDONED = Ending(
    outcome=Outcome.CANCELLED,
    status=409,
    code="client_disconnected",
    message="The client went away and did not come back for the answer.",
)
EXPIRED = Ending(
    outcome=Outcome.EXPIRED,
    status=408,
    code="deadline_exceeded",
    message="This request was not answered before its deadline.",
)
CONDEMNED = Ending(
    outcome=Outcome.FAILED,
    status=500,
    code="engine_killed",
    message="The engine died each time that it ran this request; it is not tried again.",
)
INTERRUPTED = Ending(
    outcome=Outcome.FAILED,
    status=500,
    code="stream_interrupted",
    message="The worker that streamed this answer was lost.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A request that was ended: who waits for it, and which run held it under which epoch."""

    id: UUID
    epoch: int
    channel: UUID | None
    owner: UUID | None
    notice: Finished


async def end_requests(
    database: Fetches, ids: Sequence[UUID], ending: Ending, *, team_id: int | None = None
) -> list[Ended]:
    """End those of the requests (of a team, where given) that are not finished.

    ABANDONED ends only those whose client has not come back meanwhile.
    """
    body = ending.body()
    rows = await database.fetch(
        *(END, ids, team_id, ending.outcome, ending.status, body),
        *(ending is ABANDONED, ending is CONDEMNED),
    )
    return [
        Ended(
            id=row["id"],
            epoch=row["epoch"],
            channel=row["channel"],
            owner=row["owner"],
            notice=Finished(row["id"], row["epoch"], ending.outcome, ending.status, body),
        )
        for row in rows
    ]
