"""A dry run: the file is judged, counted and priced; nothing of it runs."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw

from carpool.batch_lines import Inspection
from carpool.prices import NANODOLLARS, Price, Usage, cost
from carpool.states import ENDPOINTS
from db.batch_jobs import Job, report
from db.batch_pace import seconds_for
from db.prices import list_prices
from db.routes import backends_of, read_routing
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
            "price": await _price(jobs, found, input_tokens),
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


async def _price(jobs: JobContext, found: Inspection, input_tokens: int) -> dict[str, Any] | None:
    """At most: live at list price, with as many output tokens as the lines allow."""
    if found.model is None or found.max_output_tokens is None:
        return None
    price = await _list_price(jobs, found.model)
    if price is None:
        return None
    usage = Usage(prompt=input_tokens, completion=found.max_output_tokens)
    # It is the length of each request that may make it dear, not that of the file.
    listed = cost(usage, replace(price, long_tokens=None)).listed
    return {"currency": "USD", "amount": round(listed / NANODOLLARS, 6)}


async def _list_price(jobs: JobContext, model: str) -> Price | None:
    """Of the model, else of the first of its names at backends that has one."""
    prices = await list_prices(jobs.database)
    route = (await read_routing(jobs.database)).routes.get(model)
    names = [model, *(leg.upstream for leg in (route.legs if route else ()) if leg.upstream)]
    return next((price for name in names if (price := prices.at(name)) is not None), None)
