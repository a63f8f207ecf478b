"""A request's whole story, told from the rows that were written about it.

Claims that were handed back unharmed, as by a worker that ended in order, left no row and are not
told; their epochs are missing between the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from carpool.ids import BATCH_PREFIX, created_at, line_bounds, public_id
from carpool.states import (
    ENDPOINTS,
    Outcome,
    OwnerKind,
    ProviderBatchState,
    QueueState,
    ServiceClass,
)
from db.database import Database
from db.results import error_of

# A ghost has its result; what goes on under its id is its followers' story.
STORY = """
select
    r.id, r.endpoint, r.model, r.class, r.batch_id, r.person,
    q.state, q.owner_kind, q.epoch as claim_epoch, q.claimed_at, run.id as claim_run,
    run.backend as claim_backend, run.worker as claim_worker,
    s.outcome, s.status_code, case when s.outcome <> 0 then s.body end as body, s.epoch, s.backend,
    s.upstream, s.worker, s.run_id, s.started_at, s.first_token_at, s.completed_at,
    p.id as provider_batch, p.backend as provider_backend, p.completion_window, p.reason, p.state
        as provider_state, p.submitted_at, d.at as delivered_at
from requests r
left join results s on s.id = r.id
left join queue q on q.id = r.id and s.id is null
left join runs run on run.id = q.owner
left join provider_batches p on p.id = coalesce(q.owner, s.run_id)
left join deliveries d on d.id = r.id
where r.id = $1
"""
ATTEMPTS = """
select epoch, outcome, error, backend, worker, run_id, started_at, ended_at from attempts
where id = $1 order by epoch
"""
REATTACHED = "select at from reattachments where request_id = $1"
ENDINGS = {
    Outcome.COMPLETED: "completed",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.EXPIRED: "expired",
}
LIMITED = "limited"
LOST = "lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a request; None is what does not belong to it."""

    at: datetime
    event: str
    """``received``, ``claimed``, ``submitted`` (to a provider), ``first_token``, ``lost``,
    ``failed_attempt``, ``completed``, ``failed``, ``cancelled``, ``expired``, ``reattached``,
    ``accepted`` (by a client that does not wait) or ``delivered``."""
    text: str
    backend: str | None = None
    worker: str | None = None
    run: UUID | None = None
    epoch: int | None = None
    error: str | None = None


async def timeline(database: Database, identifier: UUID) -> list[Event]:
    """What happened to a request, in its order; nothing where there is none of this id."""
    async with database.by_index() as driver:
        rows = await driver.fetch(STORY, identifier)
        if not rows:
            return []
        attempts = await driver.fetch(ATTEMPTS, identifier)
        reattached = await driver.fetch(REATTACHED, identifier)
    [row] = rows
    events = [_received(row)]
    for attempt in attempts:
        events += _attempt(attempt)
    events += _claim(row) if row["outcome"] is None else _result(row)
    events += [
        Event(at=found["at"], event="reattached", text="A client came back for it.")
        for found in reattached
    ]
    if row["delivered_at"] is not None:
        events.append(_told(row))
    # What happened at one moment stays in the order in which it is told.
    return sorted(events, key=lambda event: event.at)


def _received(row: Any) -> Event:
    batch = row["batch_id"]
    if batch is None:
        name = ServiceClass(row["class"]).name.lower()
        text = f"Received over {ENDPOINTS[row['endpoint']]}, of the class {name}."
    else:
        number = row["id"].int - line_bounds(batch)[0].int
        text = f"Line {number:,} of {public_id(BATCH_PREFIX, batch)}."
    return Event(at=created_at(row["id"]), event="received", text=text)


def _told(row: Any) -> Event:
    """Its client was given the answer; or its id, where it does not wait."""
    at = row["delivered_at"]
    if row["completed_at"] is None or at < row["completed_at"]:
        return Event(at=at, event="accepted", text="Its id was told to a client that went on.")
    return Event(at=at, event="delivered", text="The client was told all of it.")


def _attempt(row: Any) -> Iterator[Event]:
    """A claim that ended without a result."""
    whose: dict[str, Any] = {
        "backend": row["backend"],
        "worker": row["worker"],
        "run": row["run_id"],
        "epoch": row["epoch"],
    }
    if row["started_at"] is not None:
        text = f"Claimed by '{row['backend']}'."
        yield Event(at=row["started_at"], event="claimed", text=text, **whose)
    event, text = "failed_attempt", "The attempt failed; it is tried again."
    if row["outcome"] == LOST:
        event, text = "lost", "Its worker was lost; it is tried again."
    elif row["outcome"] == LIMITED:
        text = "A rate limit sent it back, which counts as no attempt."
    yield Event(at=row["ended_at"], event=event, text=text, error=row["error"], **whose)


def _claim(row: Any) -> Iterator[Event]:
    """The claim that goes on."""
    if row["state"] != QueueState.CLAIMED:
        return
    epoch = row["claim_epoch"]
    if row["owner_kind"] == OwnerKind.PROVIDER_BATCH:
        yield from _with_provider(row, row["claimed_at"], epoch)
        return
    yield Event(
        at=row["claimed_at"],
        event="claimed",
        text=f"Claimed by '{row['claim_backend']}', which has it now.",
        backend=row["claim_backend"],
        worker=row["claim_worker"],
        run=row["claim_run"],
        epoch=epoch,
    )


def _with_provider(row: Any, claimed_at: datetime, epoch: int) -> Iterator[Event]:
    backend, window = row["provider_backend"], row["completion_window"]
    if backend is None:
        return
    yield Event(
        at=claimed_at,
        event="claimed",
        text=f"Gathered by '{backend}' for a provider batch of {window}: {row['reason']}",
        backend=backend,
        epoch=epoch,
    )
    if row["submitted_at"] is not None and row["provider_state"] != ProviderBatchState.GATHERED:
        text = f"Submitted to the provider, in a batch of {window}."
        yield Event(
            at=row["submitted_at"], event="submitted", text=text, backend=backend, epoch=epoch
        )


def _result(row: Any) -> Iterator[Event]:
    """The claim that led to the result, and how it ended."""
    of_provider = row["provider_batch"] is not None
    whose: dict[str, Any] = {
        "backend": row["backend"],
        "worker": row["worker"],
        "run": None if of_provider else row["run_id"],
        # That of an answer which was another's lies below all claims of its own.
        "epoch": row["epoch"] if row["epoch"] > 0 else None,
    }
    if row["started_at"] is not None and of_provider:
        yield from _with_provider(row, row["started_at"], row["epoch"])
    elif row["started_at"] is not None and row["backend"] is not None:
        text = f"Claimed by '{row['backend']}'."
        yield Event(at=row["started_at"], event="claimed", text=text, **whose)
    if row["first_token_at"] is not None:
        text = "The first token came."
        yield Event(at=row["first_token_at"], event="first_token", text=text, **whose)
    outcome = Outcome(row["outcome"])
    error = None
    if row["body"] is not None:
        code, message = error_of(row["body"])
        error = message if code is None else f"{code}: {message}"
    yield Event(
        at=row["completed_at"],
        event=ENDINGS[outcome],
        text=_ending(row, outcome),
        error=error,
        **whose,
    )


def _ending(row: Any, outcome: Outcome) -> str:
    match outcome:
        case Outcome.COMPLETED if row["started_at"] is not None:
            return f"Answered by '{row['backend']}' as '{row['upstream']}'."
        case Outcome.COMPLETED if row["run_id"] is not None:
            return "It got the answer of an identical request that came first."
        case Outcome.COMPLETED:
            return "It got an answer that its team has kept."
        case Outcome.FAILED:
            return f"Failed with the status {row['status_code']}."
        case Outcome.CANCELLED:
            return "Cancelled."
        case Outcome.EXPIRED:
            return "Its deadline came first."
