"""What real processes show at `/metrics` is what was done, and nothing is made up."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from openai import AsyncOpenAI

from api.queue_families import ALWAYS, FAMILIES, OF_COUNT, OF_STANDING
from api.queue_metrics import FRESH_SECONDS, QueueMetrics
from db.database import Database
from tests.batches import jsonl, line
from tests.clients import CHAT, FOREVER, Requests
from tests.faults.processes import dead
from tests.faults.test_server_faults import frozen
from tests.figures import Scrape, doors, scrape
from tests.stack import CARPOOL, MODEL, Stack, eventually, stack_in_temporary_directory
from tests.unit.test_metrics_table import table

COUNT_SECONDS = 120.0
"""On a loaded machine a count takes long, and the next one is made 100 times as long after it."""
LOST_SECONDS = 60.0
"""Well beyond a lease, and the sweep's next round."""
WHOLE, STREAMED = 4, 3
DONE = WHOLE + STREAMED
HOSTILE = ('"} 1\ncarpool_evil{a="', "x" * 200, "naïve\\n", "{{ $labels.model }}", "a\tb")
OF_QUEUE = {"backend": MODEL, "model": MODEL, "class": "interactive"}
OF_ANSWER = {"backend": MODEL, "model": MODEL}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One whose worker and jobs process serve figures on free ports."""
    with stack_in_temporary_directory({"CARPOOL_METRICS_PORT": "0"}) as started:
        yield started


async def door(stack: Stack, metric: str) -> str:
    """The URL of the process that shows a metric, once it does."""

    async def look() -> str | None:
        for url in doors(stack):
            if (await scrape(url)).types.get(metric):
                return url
        return None

    return await eventually(look)


async def served(stack: Stack) -> list[str]:
    """The URLs of the worker's and the jobs process's figures, once both are ready."""

    async def look() -> list[str] | None:
        urls = doors(stack)
        return urls if [await _ready(url) for url in urls] == [True, True] else None

    return await eventually(look)


async def complete(stack: Stack) -> Scrape:
    """The API's figures once they are all there, those of a count too."""

    async def look() -> Scrape | None:
        seen = await scrape(stack.root_url)
        return seen if seen.types.keys() >= {family.name for family in FAMILIES} else None

    return await eventually(look, COUNT_SECONDS)


async def stored(url: str, number: int) -> Scrape:
    """A worker's figures once it has counted so many answers as stored."""

    async def look() -> Scrape | None:
        seen = await scrape(url)
        done = seen.value("carpool_attempts_total", **OF_ANSWER, outcome="completed")
        return seen if done == number else None

    return await eventually(look)


async def settled(stack: Stack, *, done: float) -> Scrape:
    """The API's figures once so many requests are counted as ended."""

    async def look() -> Scrape | None:
        seen = await scrape(stack.root_url)
        ended = seen.value("carpool_requests_ended_total", model=MODEL, outcome="completed")
        return seen if ended == done else None

    return await eventually(look)


async def test_seven_chats_are_seven_in_every_figure() -> None:
    """Four whole, three streamed; of the tokens the sum of what each answer says."""
    with stack_in_temporary_directory({"CARPOOL_METRICS_PORT": "0"}) as stack:
        before = await scrape(stack.root_url)
        assert before.value("carpool_requests_ended_total", model=MODEL, outcome="completed") == 0
        async with stack.async_client() as client:
            usages = [
                (await client.chat.completions.create(**CHAT)).usage for _ in range(WHOLE)
            ] + [await _streamed(client) for _ in range(STREAMED)]
        prompt = sum(usage.prompt_tokens for usage in usages)
        output = sum(usage.completion_tokens for usage in usages)
        assert prompt
        assert output

        worker = await stored(await door(stack, "carpool_claims_total"), DONE)
        assert worker.value("carpool_claims_total", **OF_QUEUE) == DONE
        assert worker.value("carpool_claim_size_sum", backend=MODEL) == DONE
        assert worker.value("carpool_queue_wait_seconds_count", **OF_QUEUE) == DONE
        assert worker.value("carpool_request_duration_seconds_count", **OF_QUEUE) == DONE
        assert worker.value("carpool_answer_duration_seconds_count", **OF_ANSWER) == DONE
        assert worker.value("carpool_time_to_first_token_seconds_count", **OF_ANSWER) == STREAMED
        attempts = {
            outcome: worker.value("carpool_attempts_total", **OF_ANSWER, outcome=outcome)
            for outcome in ("completed", "failed", "retried", "limited", "dropped")
        }
        assert attempts == {**dict.fromkeys(attempts, 0), "completed": DONE}
        assert worker.value("carpool_input_tokens_total", **OF_ANSWER) == prompt
        assert worker.value("carpool_output_tokens_total", **OF_ANSWER) == output
        assert worker.value("carpool_cached_input_tokens_total", **OF_ANSWER) == 0
        assert worker.value("carpool_group_commit_size_sum", group="results") == DONE
        assert worker.value("carpool_runs_started_total", backend=MODEL) == 1
        assert worker.value("carpool_engine_ready", backend=MODEL) == 1
        assert worker.value("carpool_redis_degraded") == 0

        api = await settled(stack, done=DONE)
        chat = {"path": "/v1/chat/completions", "method": "POST", "status": "200"}
        assert api.value("carpool_http_requests_total", **chat) == DONE
        seconds = "carpool_http_request_duration_seconds_count"
        assert api.value(seconds, path="/v1/chat/completions") == DONE
        assert api.value("carpool_group_commit_size_sum", group="submit") == DONE
        assert api.value("carpool_model_live_backends", model=MODEL) == 1
        assert api.value("carpool_backend_runs", backend=MODEL, state="accepting") == 1
        assert api.value("carpool_database_up") == 1
        for kind in ("api", "worker", "jobs"):
            assert api.value("carpool_processes", kind=kind, state="live") == 1


async def _streamed(client: AsyncOpenAI) -> Any:
    stream = await client.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    )
    return [chunk async for chunk in stream][-1].usage


async def test_what_processes_show_is_what_the_table_says(stack: Stack) -> None:
    """Each process shows the metrics of its place, with the types and labels of the table."""
    async with stack.async_client() as client:
        await client.chat.completions.create(**CHAT)
    shown = [(await scrape(url)) for url in await served(stack)]
    api = await complete(stack)
    for scraped in (api, *shown):
        for name, kind in scraped.types.items():
            if name.startswith("carpool_"):
                row, _ = table()[name]
                assert kind == row.kind
                assert scraped.labels(name) <= {row.labels}
    worker = max(shown, key=lambda scraped: len(scraped.types))
    found = {
        "all": api.types.keys() & worker.types.keys(),
        "api": api.types.keys(),
        "api, database": api.types.keys(),
        "worker": worker.types.keys(),
    }
    assert len(shown) == 2
    for name, (row, _) in table().items():
        assert name in found[row.where], name
    assert all("process_cpu_seconds_total" in scraped.types for scraped in shown)


async def test_no_hostile_name_becomes_a_label(stack: Stack) -> None:
    """Of a model, a path, a method, or what a batch names."""
    async with stack.http() as http, httpx.AsyncClient(base_url=stack.root_url) as bare:
        for name in HOSTILE:
            answer = await http.post("/chat/completions", json=CHAT | {"model": name})
            assert answer.status_code == 404
            await http.get(f"/requests/{'a' * 32}", params={"model": name})
            assert (await bare.get(f"/{quote(name, safe='')}")).status_code == 404
            model = await http.get(f"/models/{quote(name, safe='')}")
            assert model.status_code == 404
        assert (await bare.request("PURGE", "/v1/models")).status_code == 405
        async with stack.async_client() as client:
            lines = jsonl([line("one", body={"model": HOSTILE[0]})])
            file = await client.files.create(file=lines, purpose="batch")
            batch = await client.batches.create(
                completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id
            )

            async def refused() -> bool:
                return (await client.batches.retrieve(batch.id)).status == "failed"

            await eventually(refused)
    for url in (stack.root_url, *doors(stack)):
        seen = await scrape(url)
        assert seen.values_of("model") <= {MODEL, "parked"}
        assert seen.values_of("backend") <= {MODEL, "nowhere"}
        assert seen.values_of("code") <= {"model_not_found", "unknown_url", "not_found"} | {
            *("invalid_api_key", "method_not_allowed")
        }
        assert not any(sign in path for path in seen.values_of("path") for sign in "\"'\\ \n")
        assert seen.values_of("method") <= {"GET", "POST", "other"}
        assert "evil" not in seen.text
    api = await scrape(stack.root_url)
    # No path parameter holds the end of a line, so that one of the models had no route.
    assert api.value("carpool_http_requests_total", path="other", method="GET", status="404") == 6
    assert api.value("carpool_http_errors_total", code="model_not_found") == 9

    async def counted() -> bool:
        seen = await scrape(stack.root_url)
        return seen.value("carpool_batches", status="failed") == 1

    await eventually(counted, COUNT_SECONDS)


async def test_what_waits_is_counted_with_its_age(stack: Stack, parked: str) -> None:
    async with stack.http() as http:
        for _ in range(3):
            answer = await http.post(
                "/chat/completions",
                json=CHAT | {"model": parked},
                headers={"prefer": "respond-async"},
            )
            assert answer.status_code == 202

    async def counted() -> Scrape | None:
        seen = await scrape(stack.root_url)
        labels = {"model": parked, "class": "interactive"}
        waiting = seen.value("carpool_queue_waiting_requests", **labels)
        old = seen.value("carpool_queue_oldest_wait_seconds", **labels) or 0
        return seen if waiting == 3 and old > 1 else None

    seen = await eventually(counted, COUNT_SECONDS)
    assert seen.value("carpool_model_live_backends", model=parked) == 0
    assert seen.value("carpool_queue_waiting_requests", model=parked, **{"class": "batch"}) == 0
    assert seen.value("carpool_queue_waiting_requests", model=MODEL, **{"class": "flex"}) == 0


@pytest.mark.parametrize("how", ["frozen", "dead"])
async def test_while_the_database_is_away_its_figures_are_absent(how: str) -> None:
    """Not zero, and not those of before; those of the processes themselves stay."""
    hasty = {"CARPOOL_METRICS_PORT": "0", "CARPOOL_DATABASE_TIMEOUT_SECONDS": "2"}
    with stack_in_temporary_directory(hasty) as stack:
        async with stack.async_client() as client:
            await client.chat.completions.create(**CHAT)
        await settled(stack, done=1)
        await served(stack)
        with frozen(stack) if how == "frozen" else dead(stack, "postgres"):

            async def away() -> Scrape | None:
                seen = await scrape(stack.root_url)
                return seen if seen.value("carpool_database_up") == 0 else None

            seen = await eventually(away)
            shown = seen.types.keys() & {family.name for family in (*OF_STANDING, *OF_COUNT)}
            assert shown == set()
            assert seen.sum("carpool_http_requests_total", path="/v1/chat/completions") == 1
            worker = await scrape(await door(stack, "carpool_claims_total"))
            assert worker.sum("carpool_attempts_total", outcome="completed") == 1

        await complete(stack)
        await settled(stack, done=1)


async def test_a_jobs_process_is_not_ready_without_its_database() -> None:
    with stack_in_temporary_directory({"CARPOOL_METRICS_PORT": "0"}) as stack:
        urls = await served(stack)
        with dead(stack, "postgres"):

            async def unready() -> bool:
                return sorted([await _ready(url) for url in urls]) == [False, True]

            await eventually(unready)


async def test_a_worker_that_ends_is_not_ready() -> None:
    """From the signal on; it lives for as long as it drains: here until its work is cancelled."""
    patient = {"CARPOOL_METRICS_PORT": "0", "CARPOOL_DRAIN_SECONDS": "600"}
    with stack_in_temporary_directory(patient) as stack:
        url = await door(stack, "carpool_claims_total")
        async with stack.http() as http:
            requests = Requests(http)
            left = await requests.leave(**FOREVER)

            async def held() -> bool:
                seen = await scrape(url)
                return seen.value("carpool_run_held_requests", backend=MODEL) == 1

            await eventually(held)
            assert await _ready(url)
            replaced = asyncio.create_task(stack.replace(f"worker {MODEL}-1", signal.SIGTERM))

            async def unready() -> bool:
                return not await _ready(url)

            await eventually(unready)
            assert await _up(url)
            await requests.cancel(left["id"])
            await replaced


async def test_a_killed_worker_is_counted_as_a_lost_run() -> None:
    with stack_in_temporary_directory({"CARPOOL_METRICS_PORT": "0"}) as stack:

        async def lost() -> float:
            seen = [await scrape(url) for url in (stack.root_url, *doors(stack)) if await _up(url)]
            counts = [one.value("carpool_lost_runs_total", backend=MODEL) for one in seen]
            return sum(count or 0 for count in counts)

        assert await lost() == 0
        await stack.replace(f"worker {MODEL}-1")

        async def counted() -> bool:
            return await lost() == 1

        await eventually(counted, LOST_SECONDS)


async def test_scrapes_at_one_time_share_one_reading_and_all_are_answered(stack: Stack) -> None:
    await complete(stack)
    began = time.monotonic()
    seen = await asyncio.gather(*(scrape(stack.root_url) for _ in range(20)))
    stamps = {one.value("carpool_queue_counted_timestamp_seconds") for one in seen}
    assert None not in stamps
    # The one of before, and one for each time that passed until it was made anew.
    assert len(stamps) <= 2 + (time.monotonic() - began) / FRESH_SECONDS


async def test_a_database_that_was_never_there_leaves_one_figure() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    metrics = QueueMetrics(database)
    try:
        await metrics.read()
        shown = {sample.name for family in metrics.collect() for sample in family.samples}
        assert shown == {family.name for family in ALWAYS}
    finally:
        await metrics.close()
        await database.close()


async def test_two_processes_cannot_have_one_port(stack: Stack) -> None:
    """The second says which setting is wrong, and ends."""
    taken = (await served(stack))[0].rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *CARPOOL,
        "jobs",
        env={
            "CARPOOL_DATABASE_URL": stack.database_url,
            "CARPOOL_REDIS_URL": stack.redis_url,
            "CARPOOL_DATA_DIR": str(stack.directory),
            "CARPOOL_METRICS_PORT": taken,
        },
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    _, printed = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert f"metrics_port: cannot listen on 127.0.0.1:{taken}" in printed.decode()


async def _ready(url: str) -> bool:
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.get(f"{url}/readyz")
    assert answer.status_code in (200, 503)
    return answer.status_code == 200


async def _up(url: str) -> bool:
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(timeout=60) as http:
            return (await http.get(f"{url}/healthz")).status_code == 200
    return False
