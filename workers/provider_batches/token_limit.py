"""How many tokens of an upstream model may be enqueued at once: what is configured, and learned."""

import re

from carpool.settings import OpenAIBatchSettings
from db.database import Lane
from db.provider_batches import Refusal, last_refusal

STATED = re.compile(r"Limit: ([\d,]+) enqueued tokens")
"""COMPAT section 2."""
DOUBLES_SECONDS = 3600.0
"""In such a time a limit that was guessed grows to twice of it: others may have used the room."""


async def token_limit(
    lane: Lane, backend: str, settings: OpenAIBatchSettings, upstream: str
) -> int | None:
    """For all open provider batches together; None is no limit."""
    refusal = await last_refusal(lane, backend, upstream, list(settings.windows))
    return bound(settings.max_enqueued_tokens, refusal)


def bound(configured: int | None, refusal: Refusal | None) -> int | None:
    """The configured limit, or the lower one that a refusal tells of.

    Where that states none, or one that by our estimate was kept, it is half of what was refused.
    """
    if refusal is None:
        return configured
    learned = stated(refusal.error)
    if learned is None or learned >= refusal.tokens:
        doublings = int(refusal.seconds_ago / DOUBLES_SECONDS)
        guessed = max(refusal.tokens // 2, 1) << doublings
        learned = guessed if learned is None else min(learned, guessed)
    return learned if configured is None else min(configured, learned)


def stated(message: str) -> int | None:
    """The limit that a refusal names."""
    found = STATED.search(message)
    return int(found[1].replace(",", "")) if found else None
