"""Rows 5 and 6: a batch from the first byte of its upload to its output file, and what it takes."""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import asyncpg
import httpx

from tests.benchmarks.cpu import Bystanders
from tests.benchmarks.memory import Memory
from tests.benchmarks.stack import Carpool
from tests.benchmarks.table import Measured

Json = dict[str, Any]

LINES = 50_000
LINE_BYTES = 850
ENDED = ("completed", "failed", "expired", "cancelled")
WAIT_SECONDS = 60
TIMEOUT_SECONDS = 300.0
STAGES = ("uploaded", "judged", "answered", "written")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What several rounds of one file took."""

    rate: Measured
    """Lines a second."""
    grown: Measured
    """Of each round, the megabytes of the process that grew most."""
    notes: list[str]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Round:
    seconds: float
    stages: tuple[float, ...]
    completed: int


def measure_batch(carpool: Carpool, *, rounds: int, lines: int = LINES) -> Batch:
    """Run a file of short chats several times, after a small one to warm up."""
    data = input_file(lines)
    run_round(carpool, input_file(1000))
    done, most, notes = [], [], []
    others = Bystanders()
    for _ in range(rounds):
        with Memory(carpool.process) as memory:
            done.append(run_round(carpool, data))
        grown = memory.grown()
        most.append(max(grown.values()))
        largest = sorted(grown.items(), key=lambda item: -item[1])[:4]
        notes.append(", ".join(f"{name} {size:.0f} MB" for name, size in largest))
    percent = others.percent()
    times = [median(each.stages[place] for each in done) for place in range(len(STAGES))]
    parts = ", ".join(
        f"{name} after {after:.2f} s" for name, after in zip(STAGES, times, strict=True)
    )
    lost = [each.completed for each in done if each.completed != lines]
    return Batch(
        rate=Measured(tuple(lines / each.seconds for each in done), percent),
        grown=Measured(tuple(most), percent),
        notes=[
            f"row 5: {lines:,} lines of {len(data) / lines:.0f} bytes: {parts} (medians)",
            *(f"row 6, round {n}: grown by {note}" for n, note in enumerate(notes, 1)),
        ],
        problem=f"only {lost} of {lines} lines were completed" if lost else None,
    )


def input_file(lines: int) -> bytes:
    """Chats of about `LINE_BYTES`, one in a hundred with the same beginning."""
    body: Json = {
        "model": "simulated",
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": 8,
    }
    texts = []
    for number in range(lines):
        words = f"{number % 100} " + "word " * 134
        body["messages"] = [{"role": "user", "content": f"{words}{number}"}]
        line = {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        texts.append(json.dumps(line))
    return ("\n".join(texts) + "\n").encode()


def run_round(carpool: Carpool, data: bytes) -> _Round:
    """Upload a file, and wait for its output; seconds from the first byte on."""
    headers = {"authorization": f"Bearer {carpool.target.key}"}
    with httpx.Client(
        base_url=carpool.target.base_url, headers=headers, timeout=TIMEOUT_SECONDS
    ) as http:
        began = time.time()
        file = _asked(
            http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)})
        )
        uploaded = time.time()
        batch = _asked(
            http.post(
                "/batches",
                json={
                    "input_file_id": file["id"],
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                },
            )
        )
        while batch["status"] not in ENDED:
            batch = _asked(http.get(f"/batches/{batch['id']}", params={"wait": WAIT_SECONDS}))
        ended = time.time()
    moments = _moments(carpool, batch["id"])
    assert all(before <= after for before, after in pairwise(moments))
    return _Round(
        seconds=ended - began,
        stages=tuple(moment - began for moment in (uploaded, *moments)),
        completed=batch["request_counts"]["completed"],
    )


def _moments(carpool: Carpool, batch: str) -> tuple[float, ...]:
    """When it was judged, answered and written, more exactly than its object tells."""

    async def read() -> tuple[float, ...]:
        connection = await asyncpg.connect(carpool.database_url)
        try:
            row = await connection.fetchrow(
                "select in_progress_at, finalizing_at, completed_at from batches "
                "where id = $1::uuid",
                batch.removeprefix("batch_"),
            )
        finally:
            await connection.close()
        return tuple(moment.timestamp() for moment in row)

    return asyncio.run(read())


def _asked(answer: httpx.Response) -> Json:
    if answer.status_code != 200:
        raise SystemExit(f"{answer.request.url}: {answer.text}")
    found: Json = answer.json()
    return found
