"""Redis or Postgres die, come back empty, or stay away: each accepted request still ends once."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import asyncpg
import httpx
import psutil
import pytest
from openai import AsyncOpenAI

from carpool.states import Outcome
from tests.clients import CHAT
from tests.faults.load import (
    Load,
    Stored,
    agree,
    answered,
    ask,
    gathered,
    in_flight,
    settled,
)
from tests.faults.processes import dead, killed
from tests.stack import WAIT_SECONDS, Stack, eventually, stack_in_temporary_directory

PACE = {"CARPOOL_SIMULATED_FIRST_TOKEN_MS": "200", "CARPOOL_SIMULATED_TOKEN_MS": "10"}
CLIENTS = 32
REDIS_TIMEOUT_SECONDS = 0.5
AWAY_SECONDS = 30 * REDIS_TIMEOUT_SECONDS
"""As long as a minute is with the default timeout."""
LEASE_SECONDS = 5.0
ROUNDS_SECONDS = 3.0
FAILURES = {"heartbeat_failed", "sweep_failed", "look_failed"}
"""What is said of the loops that meet an outage."""
PROCESSES = 3
"""An API, a worker and the jobs."""


@asynccontextmanager
async def loaded(stack: Stack, client: AsyncOpenAI) -> AsyncIterator[Load]:
    """A load that has come into its stride before the fault, and is served again after it."""
    async with Load(client, clients=CLIENTS) as load:
        await load.more(2 * CLIENTS)
        yield load
        await load.more(4 * CLIENTS)


def once(held: dict[str, list[Stored]]) -> None:
    """Assert that each request was stored once, and ended by its first claim."""
    assert {len(stored) for stored in held.values()} == {1}
    assert {s.outcome for [s] in held.values()} == {Outcome.COMPLETED}
    assert {s.epoch for [s] in held.values()} == {1}


async def test_redis_killed_and_started_empty_under_load_costs_nothing() -> None:
    """Twice; streams among it: what was missed of them is read from Postgres."""
    with stack_in_temporary_directory(PACE) as stack:
        async with stack.async_client(max_retries=2) as client:
            async with loaded(stack, client) as load:
                for _ in range(2):
                    await killed(stack, "valkey")
                    await load.more(2 * CLIENTS)
            await settled(stack)
        answered(load.views)
        once(await agree(stack, load.views))


async def test_redis_away_for_many_timeouts_delays_answers_and_loses_none() -> None:
    """It is stopped: connections to it hang. Every answer comes by the slow poll."""
    hasty = PACE | {"CARPOOL_REDIS_TIMEOUT_SECONDS": str(REDIS_TIMEOUT_SECONDS)}
    with stack_in_temporary_directory(hasty) as stack:
        pid = stack.pid("valkey")
        async with (
            stack.async_client(max_retries=2) as client,
            httpx.AsyncClient(timeout=WAIT_SECONDS) as plain,
        ):
            async with loaded(stack, client) as load:
                os.kill(pid, signal.SIGSTOP)
                try:
                    back_at = time.monotonic() + AWAY_SECONDS
                    while time.monotonic() < back_at:
                        began = time.monotonic()
                        view = await ask(client)
                        assert view.error is None
                        assert time.monotonic() - began < 10
                        load.views.append(view)
                        ready = await plain.get(f"{stack.root_url}/readyz")
                        assert ready.status_code == 200
                    assert "degraded" in ready.text
                finally:
                    os.kill(pid, signal.SIGCONT)
                soon = await ask(client)
                assert soon.error is None
            await settled(stack)

            async def well() -> bool:
                return "degraded" not in (await plain.get(f"{stack.root_url}/readyz")).text

            await eventually(well)
        answered(load.views)
        once(await agree(stack, load.views))


async def test_a_worker_that_starts_while_redis_is_away_serves() -> None:
    with stack_in_temporary_directory(PACE) as stack:
        valkey, worker = stack.pid("valkey"), stack.pid("worker simulated-1")
        async with stack.async_client(max_retries=2) as client:
            os.kill(valkey, signal.SIGSTOP)
            try:
                os.kill(worker, signal.SIGKILL)
                views = await gathered(ask(client, stream=n % 2 == 0) for n in range(20))
            finally:
                os.kill(valkey, signal.SIGCONT)
            await settled(stack)
        answered(views)
        await agree(stack, views)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "restarted"])
async def test_postgres_killed_or_restarted_under_load_loses_nothing(
    number: signal.Signals,
) -> None:
    """Its own crash recovery brings back what was committed; what was not is sent again."""
    with stack_in_temporary_directory(PACE) as stack:
        async with stack.async_client(max_retries=2) as client:
            async with loaded(stack, client) as load:
                for _ in range(2):
                    await killed(stack, "postgres", number)
                    await load.more(2 * CLIENTS)
            await settled(stack)
        await agree(stack, load.views)
        answered(load.views)


@pytest.mark.parametrize("how", ["frozen", "dead"])
async def test_postgres_away_longer_than_a_lease_costs_no_work_done(how: str) -> None:
    """No heart could beat meanwhile: nobody is dead for it, and nothing runs twice."""
    with stack_in_temporary_directory(
        {
            "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "14000",
            "CARPOOL_LEASE_SECONDS": str(LEASE_SECONDS),
            # As with the defaults, a sweep comes sooner than a heartbeat.
            "CARPOOL_HEARTBEAT_SECONDS": "1",
            "CARPOOL_POLL_SECONDS": "0.2",
            "CARPOOL_DATABASE_TIMEOUT_SECONDS": "2",
        }
    ) as stack:
        async with stack.async_client(max_retries=2) as client:
            asking = [asyncio.create_task(ask(client)) for _ in range(50)]
            await in_flight(stack, 50)
            with frozen(stack) if how == "frozen" else dead(stack, "postgres"):
                back_at = time.monotonic() + 2 * LEASE_SECONDS
                while time.monotonic() < back_at:  # noqa: ASYNC110 - the time itself is the fault
                    await asyncio.sleep(0.1)
            views = await gathered(asking)
            await settled(stack)
        answered(views)
        once(await agree(stack, views))


async def test_that_postgres_is_away_is_said_once_by_each_process_and_that_it_is_back() -> None:
    """Of what their loops meet at each round, and of requests that it could not let in."""
    with stack_in_temporary_directory(
        {
            "CARPOOL_LOG_JSON": "true",
            "CARPOOL_DATABASE_TIMEOUT_SECONDS": "2",
            "CARPOOL_POLL_SECONDS": "0.2",
        }
    ) as stack:
        async with stack.http() as http:
            with dead(stack, "postgres"):
                back_at = time.monotonic() + ROUNDS_SECONDS
                while time.monotonic() < back_at or not events(stack) >= FAILURES:
                    away = await http.post("/chat/completions", json=CHAT)
                    assert away.status_code == 503
            await eventually(stack.ready)

            async def all_back() -> bool:
                return logged(stack)["database_reached", None] == PROCESSES

            await eventually(all_back)
        lines = logged(stack)
        assert {line: n for line, n in lines.items() if n > PROCESSES} == {}


def logged(stack: Stack) -> Counter[tuple[str, str | None]]:
    """How often each event was logged with each error, but for those of one request."""
    lines = [json.loads(line) for line in stack.output().splitlines() if line.startswith("{")]
    return Counter((n["event"], n.get("error")) for n in lines if "request" not in n)


def events(stack: Stack) -> set[str]:
    return {event for event, _ in logged(stack)}


async def test_all_connections_cut_at_once_under_load_loses_nothing() -> None:
    with stack_in_temporary_directory(PACE) as stack:
        async with stack.async_client(max_retries=2) as client:
            async with loaded(stack, client) as load:
                for _ in range(3):
                    await cut_all(stack)
                    await load.more(CLIENTS)
            await settled(stack)
        answered(load.views)
        await agree(stack, load.views)


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """The server and all its sessions stopped, for as long as the context lasts."""
    server = psutil.Process(stack.pid("postgres"))
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def cut_all(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
