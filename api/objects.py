"""The objects that clients see, as JSON-ready dictionaries."""

from datetime import datetime
from typing import Any

import msgspec

from api.responses import REQUEST_PREFIX
from carpool.folding import fold
from carpool.ids import created_at, public_id
from carpool.prices import COLUMNS, NANODOLLARS, UNKNOWN, Ledger
from carpool.reasons import Waits
from carpool.states import ENDPOINTS, RequestStatus
from db.view import RequestView


def request_object(seen: RequestView) -> dict[str, Any]:
    """A request object; ``response`` is the answer's JSON (of a stream: its chunks, folded)."""
    response: Any = None
    error: Any = None
    if seen.status is RequestStatus.COMPLETED and seen.body is not None:
        response = (
            fold([msgspec.json.decode(line) for line in seen.body.split(b"\n") if line])
            if seen.streamed
            else msgspec.Raw(seen.body)
        )
    elif seen.body is not None:
        error = msgspec.json.decode(seen.body).get("error")
    return {
        "id": public_id(REQUEST_PREFIX, seen.id),
        "object": "request",
        "status": seen.status,
        "endpoint": ENDPOINTS[seen.endpoint],
        "model": seen.model,
        "backend": seen.backend,
        "upstream": seen.upstream,
        "reason": seen.reason,
        "cost": None if seen.ledger is None else _cost(seen.ledger),
        "created_at": int(created_at(seen.id).timestamp()),
        "deadline": _seconds(seen.deadline),
        "started_at": _seconds(seen.started_at),
        "completed_at": _seconds(seen.completed_at),
        "attempts": seen.attempts,
        "response": response,
        "error": error,
    }


def waits_object(waits: Waits) -> dict[str, Any]:
    """Why a request waits; ``place`` is 1 for what is next, and None where there is no order."""
    return {
        "place": waits.place,
        "reason": waits.reason,
        "text": waits.text,
        "eta_seconds": waits.eta_seconds,
    }


def _cost(ledger: Ledger) -> dict[str, Any] | None:
    """In dollars: what was paid, what it would have cost live at list price, and what saved it."""
    if ledger == UNKNOWN:
        return None
    saved = {
        name.removeprefix("saved_"): amount / NANODOLLARS
        for name, amount in zip(COLUMNS, ledger.columns, strict=True)
        if name != "paid" and amount
    }
    return {
        "paid": ledger.paid / NANODOLLARS,
        "listed": ledger.listed / NANODOLLARS,
        "saved": saved,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
