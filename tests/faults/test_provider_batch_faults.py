"""Whatever befalls the worker or the provider, each row of a provider batch is answered once."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.batches import Json, line
from tests.double.launch import Double
from tests.double.record import Seen
from tests.faults.processes import stopped
from tests.faults.provider_rows import (
    BY_FILE,
    HTML,
    HURRY,
    LEFT_OVER,
    LIVE,
    SPEED,
    TRIES,
    batches_of,
    ended,
    flex,
    killed_while_held,
    lines,
    name_of,
    until,
)
from tests.faults.worker import Worker
from tests.stack import Stack, eventually

pytest_plugins = ("tests.faults.provider_fixtures",)

WAY = BY_FILE
DAY_SECONDS = 86_400
CLIENTS = 32
"""So few at once that none waits for Postgres longer than the API does."""
FILES, BATCHES = "/v1/files", "/v1/batches"
ANY_BATCH, ANY_CONTENT = "/v1/batches/batch_*", "/v1/files/*/content"
STATE = "select max(state) from provider_batches where state < 3"
ROWS = """
select (select count(*) from requests) as requests, (select count(*) from results) as results,
    (select count(*) from queue) as waiting
"""
ENDS = """
select r.id, s.outcome, s.status_code, convert_from(s.body, 'utf8') as body
from requests r left join results s on s.id = r.id
"""
MONEY = "select sum(paid) as paid, sum(saved_window) as saved from results"
TRIED_AGAIN = "select id, count(*)::integer as times from attempts group by id"
BACKENDS = "select backend from results where batch_id = $1::uuid"
ONE_OF = "select id from requests where batch_id = $1::uuid limit 1"


def done(seen: Seen, path: str, method: str) -> int:
    """How many such calls the provider answered well."""
    return sum(call.status == 200 for call in seen.of(path, method))


async def test_a_mixed_workload_under_kills_expiries_and_partial_failures(
    bare: Stack, double: Double, worker: Worker
) -> None:
    """5,000 rows: 4,500 lines of the Batch API and 500 flex chats, the worker killed at each step.

    Each is answered once, with the text that the provider has for it; and no line is computed
    twice, unless its first computation failed, expired or was never delivered.
    """
    many, some = 4500, 500
    await double.line_fault("Who is r1", status=500, times=40)
    await double.line_fault("Who is r2", code="server_error", times=20)
    await double.line_fault("Who is r3", missing=True, times=20)
    await double.line_fault("Who is r4", doubled=True, times=20)
    await double.line_fault("Who is r44", text='{"custom_id": "cut', times=5)
    await double.line_fault("Who is r777?", status=400, times=None)
    await double.batch_fault(unknown_lines=5, times=2)
    await double.batch_fault(stall_after=100, times=1)
    await double.fault(FILES, method="POST", hang=True)
    holds: list[tuple[str, Json]] = [
        (FILES, {"method": "POST", "hang_after_chunks": 0}),
        (BATCHES, {"method": "POST", "hang": True}),
        (BATCHES, {"method": "POST", "hang_after_chunks": 0}),
        (ANY_BATCH, {"method": "GET", "hang": True}),
        (ANY_CONTENT, {"hang_after_chunks": 1}),
    ]
    async with batches_of(bare) as batches:
        at_once = asyncio.Semaphore(CLIENTS)

        async def chat(number: int) -> None:
            async with at_once:
                await flex(batches.http, number)

        creating = asyncio.create_task(batches.create(lines(many)))
        await asyncio.gather(creating, *map(chat, range(some)))
        batch = creating.result()
        for following in [*holds, None]:
            await killed_while_held(worker, double, following)
        turning = asyncio.create_task(_turn(double))
        try:
            await ended(batches, batch, many, failed=1)
            await eventually(lambda: _settled(bare))
        finally:
            turning.cancel()
    await answered_once(bare, double, many + some)
    [money] = await bare.fetch(MONEY)
    assert money["paid"] > 0
    # The window of 24 hours halves the price; each row may differ by the nanodollar of a half.
    assert abs(money["paid"] - money["saved"]) <= many + some


async def _turn(double: Double) -> None:
    """Let what stalls expire."""
    while True:
        await double.advance(DAY_SECONDS)
        await asyncio.sleep(1)


async def answered_once(bare: Stack, double: Double, number: int) -> None:
    seen = await double.seen()
    answers = await bare.fetch(ENDS)
    assert len(answers) == number
    assert Counter(row["outcome"] for row in answers) == {0: number - 1, 1: 1}
    computed: Counter[str] = Counter()
    for custom_id, times in seen.lines.items():
        assert times == 1, custom_id
        computed[custom_id.partition(".")[0]] += times
    tries = {row["id"].hex: row["times"] for row in await bare.fetch(TRIED_AGAIN)}
    twice = {name: times for name, times in computed.items() if times > 1 + tries.get(name, 0)}
    assert not twice
    # Those that were computed twice are the ones whose answers were never delivered.
    assert sum(times - 1 for times in computed.values()) <= 20 + 5
    assert sum(tries.values()) >= 40 + 20 + 20


async def _settled(bare: Stack) -> bool:
    [rows] = await bare.fetch(ROWS)
    return bool(rows["waiting"] == 0 and rows["requests"] == rows["results"])


MISDEEDS: dict[str, list[tuple[str, Json]]] = {
    "it answers HTML": [
        (FILES, {"method": "POST", **HTML}),
        (BATCHES, {**HTML}),
        (ANY_CONTENT, {**HTML}),
    ],
    "it resets connections": [
        (FILES, {"method": "POST", "reset": True}),
        (BATCHES, {"method": "POST", "reset": True}),
        (ANY_CONTENT, {"reset": True}),
    ],
    "its answers are lost": [
        (FILES, {"method": "POST", "cut_after_bytes": 0}),
        (BATCHES, {"method": "POST", "cut_after_bytes": 0}),
        (ANY_BATCH, {"cut_after_bytes": 10}),
        (ANY_CONTENT, {"cut_after_bytes": 700}),
    ],
    "it refuses all for a while": [
        ("/v1/*", {"status": 401, "times": 2}),
        ("/v1/*", {"status": 429, "times": 1, "headers": {"retry-after-ms": "100"}}),
        ("/v1/*", {"status": 500, "times": 1}),
        (ANY_BATCH, {"status": 404, "times": 2}),
    ],
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
async def test_a_provider_that_misbehaves_loses_no_row_and_computes_none_twice(
    bare: Stack, double: Double, misdeed: str
) -> None:
    for path, fault in MISDEEDS[misdeed]:
        await double.fault(path, **fault)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(30))
        await ended(batches, batch, 30)
    seen = await double.seen()
    assert len(seen.lines) == 30
    assert set(seen.lines.values()) == {1}
    assert len(seen.batches) == 1
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_a_key_that_is_revoked_while_the_provider_computes_loses_nothing(
    bare: Stack, double: Double
) -> None:
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(10))
        await until(bare, STATE, 2)
        await double.configure(keys=["sk-another"])
        await double.forget()
        await double.until("/v1/batches*", "GET", 2)
        assert {call.status for call in (await double.seen()).of("/v1/batches*")} <= {401, None}
        await double.configure(keys=None)
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_a_worker_told_to_end_leaves_its_batches_to_the_next(
    bare: Stack, double: Double, worker: Worker
) -> None:
    """It hands nothing back to the queue, and the next goes on without waiting for a lease."""
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(50))
        await until(bare, STATE, 2)
        worker.end(signal.SIGTERM)
        assert await bare.value(LEFT_OVER) == 50
        assert (
            await bare.value("select count(*) from provider_batches where kept_until > now()") == 0
        )
        worker.replace()
        await double.auto(SPEED)
        await ended(batches, batch, 50)
    assert done(await double.seen(), BATCHES, "POST") == 1


async def test_a_keeper_that_slept_through_its_lease_takes_back_what_it_did(
    bare: Stack, double: Double, worker: Worker, config: Path
) -> None:
    """Stopped while it submits, it comes back to find that another has submitted it, too."""
    await double.auto(0)
    await double.fault(BATCHES, method="POST", hang=True)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(10))
        await double.until_held()
        with stopped(worker.pid):
            other = Worker(bare, config, "patient", seat="another")
            try:
                await until(bare, STATE, 2)
            finally:
                other.end(signal.SIGTERM)
            await double.release()
            await double.until(BATCHES, "POST", 2)
        await double.until("/v1/batches/*/cancel", "POST")
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    seen = await double.seen()
    assert sorted(b.status for b in seen.batches) == ["cancelled", "completed"]
    assert len(seen.lines) == 10
    assert set(seen.lines.values()) == {1}


async def test_what_gets_late_is_taken_back_for_live_calls(
    bare: Stack, double: Double, worker: Worker, own: Worker
) -> None:
    """As its deadline nears a provider batch is cancelled, and the route's next leg answers."""
    await double.auto(0)
    await double.fault(BATCHES, method="POST", hang=True)
    async with batches_of(bare) as batches:
        await until(bare, LIVE, 2)
        batch = await batches.create([line(f"r{n}", body={"model": "rescued"}) for n in range(10)])
        await double.until_held()
        await bare.fetch(HURRY, name_of(batch))
        await bare.fetch("update provider_batches set deadline = now() + interval '300 s'")
        await double.release()
        await double.until("/v1/batches/*/cancel", "POST")
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    answers = await bare.fetch(BACKENDS, name_of(batch))
    assert {row["backend"] for row in answers} == {"own"}
    assert not (await double.seen()).lines


async def test_what_no_window_meets_goes_to_the_leg_behind_at_once(
    bare: Stack, double: Double, worker: Worker, own: Worker
) -> None:
    """A batch of 30 minutes is answered live, one of a day by the cheapest window; both say why."""
    async with batches_of(bare) as batches:
        await until(bare, LIVE, 2)
        hurried, patient = [
            await batches.create(
                [line(f"r{n}", body={"model": "chained"}) for n in range(10)],
                completion_window=window,
            )
            for window in ("30m", "24h")
        ]
        await ended(batches, hurried, 10)
        await ended(batches, patient, 10)
        [found] = await bare.fetch(ONE_OF, name_of(patient))
        seen = (await batches.http.get(f"/requests/req_{found['id'].hex}")).json()
    for batch, backend in ((hurried, "own"), (patient, "patient")):
        answers = await bare.fetch(BACKENDS, name_of(batch))
        assert {row["backend"] for row in answers} == {backend}
    assert "Cheapest is the 24h window (price x 0.5" in seen["reason"]
