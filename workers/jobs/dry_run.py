"""A dry run: the file is judged, counted and priced; nothing of it runs."""

import asyncio
from typing import Any

import msgspec
from msgspec import Raw

from carpool.batch_lines import Inspection
from carpool.settings import ModelPrice
from carpool.states import ENDPOINTS
from db.batch_jobs import Job, report
from db.batch_pace import seconds_for
from db.routes import backends_of
from workers.jobs.context import JobContext
from workers.jobs.tokens import token_counter
from workers.jobs.validation import error_list, inspect

CHUNK_LINES = 500


async def dry_run(jobs: JobContext, job: Job) -> bool:
    """Put a report into the batch's row; False where the row is no longer ours."""
    bodies = _Counting(jobs, job)
    found = await inspect(jobs, job, bodies.take)
    counted = await bodies.finish()
    input_tokens = found.tokens if counted is None else counted
    text = msgspec.json.encode(
        {
            "tokens": {
                "input": input_tokens,
                "max_output": found.max_output_tokens,
                "counted_by": "estimate" if counted is None else "tokenizer",
            },
            "seconds": await _seconds(jobs, found),
            "price": _price(jobs, found, input_tokens),
        }
    )
    return await report(
        jobs.database,
        job.id,
        jobs.process,
        model=found.model,
        total=found.total,
        errors=error_list(found.errors) if found.errors else None,
        report=text.decode(),
    )


class _Counting:
    """Counts the tokens of the lines while they are read, in a thread."""

    def __init__(self, jobs: JobContext, job: Job) -> None:
        self._jobs = jobs
        self._endpoint = ENDPOINTS[job.endpoint]
        self._waiting: list[bytes] = []
        self._tokens: int | None = 0

    async def take(self, body: Raw) -> None:
        self._waiting.append(bytes(body))
        if len(self._waiting) >= CHUNK_LINES:
            await self._count()

    async def finish(self) -> int | None:
        """All tokens; None where they cannot be counted here."""
        await self._count()
        return self._tokens

    async def _count(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._tokens is None:
            return
        model = msgspec.json.decode(waiting[0])["model"]
        backends = await backends_of(self._jobs.database, model)
        counter = await asyncio.to_thread(token_counter, self._jobs.settings, backends)
        if counter is None:
            self._tokens = None
            return
        try:
            self._tokens += await asyncio.to_thread(counter.count, self._endpoint, waiting)
        except Exception:  # a body that only the engine can judge
            self._tokens = None


async def _seconds(jobs: JobContext, found: Inspection) -> int | None:
    if found.model is None or found.errors:
        return None
    return await seconds_for(jobs.database, found.model, found.total)


def _price(jobs: JobContext, found: Inspection, input_tokens: int) -> dict[str, Any] | None:
    """At most: with as many output tokens as the lines allow."""
    model = None if found.model is None else jobs.settings.models.get(found.model)
    price: ModelPrice | None = None if model is None else model.batch_price
    if price is None or found.max_output_tokens is None:
        return None
    micro = input_tokens * price.input + found.max_output_tokens * price.output
    return {"currency": "USD", "amount": round(micro / 1_000_000, 6)}
