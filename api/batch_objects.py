"""Batches as clients see them (COMPAT section 2)."""

from datetime import datetime
from typing import Any

import msgspec

from carpool.ids import BATCH_PREFIX, FILE_PREFIX, public_id
from carpool.states import ENDPOINTS, BatchStatus
from db.batches import BatchView


def batch_object(seen: BatchView) -> dict[str, Any]:
    """OpenAI's batch object, and ``priority``. Counts are 0 until the file is known to be valid."""
    return {
        "id": public_id(BATCH_PREFIX, seen.id),
        "object": "batch",
        "endpoint": ENDPOINTS[seen.endpoint],
        "model": seen.model,
        "errors": _errors(seen),
        "input_file_id": seen.input_file_id,
        "completion_window": seen.completion_window,
        "status": seen.status.name.lower(),
        "output_file_id": _file(seen.output_file_id),
        "error_file_id": _file(seen.error_file_id),
        "created_at": _seconds(seen.created_at),
        "in_progress_at": _seconds(seen.in_progress_at),
        "expires_at": _seconds(seen.expires_at),
        "finalizing_at": _seconds(seen.finalizing_at),
        "completed_at": _seconds(seen.completed_at),
        "failed_at": _seconds(seen.failed_at),
        "expired_at": _seconds(seen.expired_at),
        "cancelling_at": _seconds(seen.cancelling_at),
        "cancelled_at": _seconds(seen.cancelled_at),
        "request_counts": {
            "total": seen.total,
            "completed": seen.completed,
            "failed": _failed(seen),
        },
        "metadata": None if seen.metadata is None else msgspec.Raw(seen.metadata.encode()),
        "usage": {
            "input_tokens": seen.prompt_tokens,
            "input_tokens_details": {"cached_tokens": seen.cached_tokens},
            "output_tokens": seen.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": seen.prompt_tokens + seen.completion_tokens,
        },
        "priority": seen.priority,
    }


def dry_run_object(seen: BatchView, *, file_bytes: int | None) -> dict[str, Any]:
    """What a dry run found; ``seconds`` and ``price`` are None where nothing is known of them."""
    report: dict[str, Any] = {} if seen.report is None else msgspec.json.decode(seen.report)
    return {
        "object": "batch.dry_run",
        "valid": seen.errors is None,
        "endpoint": ENDPOINTS[seen.endpoint],
        "model": seen.model,
        "errors": _errors(seen),
        "input_file_id": seen.input_file_id,
        "completion_window": seen.completion_window,
        "request_counts": {"total": seen.total, "completed": 0, "failed": 0},
        "file_bytes": file_bytes,
        **report,
    }


def _failed(seen: BatchView) -> int:
    # Of a batch that ran to its end, lines that were cancelled one by one have failed too.
    if seen.status is BatchStatus.COMPLETED:
        return seen.total - seen.completed
    return seen.failed


def _errors(seen: BatchView) -> dict[str, Any] | None:
    if seen.errors is None:
        return None
    return {"object": "list", "data": msgspec.Raw(seen.errors.encode())}


def _file(identifier: Any) -> str | None:
    return None if identifier is None else public_id(FILE_PREFIX, identifier)


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
