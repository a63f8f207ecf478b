"""No more background responses are open than the operator allows, whoever creates them."""

import re
import signal
from pathlib import Path

from tests.double.launch import Double
from tests.faults.provider_rows import (
    BY_RESPONSE,
    NOTED,
    SPEED,
    Way,
    batches_of,
    create,
    ended,
    lines,
    made,
    until,
)
from tests.faults.worker import Worker
from tests.stack import Stack

pytest_plugins = ("tests.faults.provider_fixtures",)

MOST = 20
WAY = Way(f"{BY_RESPONSE.settings}\nmax_background_responses = {MOST}", {})
OWNED = "select count(*) from queue where owner_kind = 2"
WORKERS = "select count(*) from runs where ended_at is null"


async def test_two_workers_and_their_successors_keep_the_limit_together(
    bare: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Both are killed while the limit is reached: what they had created counts on."""
    other = Worker(bare, config, "patient", seat="another")
    try:
        await until(bare, WORKERS, 2)
        await double.auto(0)
        async with batches_of(bare) as batches:
            batch = await create(batches, lines(100))
            await until(bare, NOTED, MOST)
            worker.replace()
            other.replace()
            await until(bare, WORKERS, 2)
            await double.auto(SPEED)
            await ended(batches, batch, 100)
    finally:
        other.end(signal.SIGTERM)
    assert (await double.seen()).most_open == MOST
    assert len(await made(double)) == 100


async def test_a_limit_that_was_lowered_is_obeyed_by_what_was_gathered_before(
    bare: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Rows that are gathered, and not created yet, go back to wait for their turn."""
    await double.auto(0)
    await double.fault("/v1/responses", method="POST", status=500, times=None)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(MOST))
        await until(bare, OWNED, MOST)
        worker.end()
        await double.clear()
        limit(config, 5)
        try:
            worker.replace()
            await until(bare, NOTED, 5)
            await double.auto(SPEED)
            await ended(batches, batch, MOST)
        finally:
            limit(config, MOST)
            worker.replace()
    assert (await double.seen()).most_open == 5
    assert len(await made(double)) == MOST


def limit(config: Path, number: int) -> None:
    """Set it for workers that start from now on."""
    text = re.sub("(max_background_responses) = .*", rf"\1 = {number}", config.read_text())
    config.write_text(text)
