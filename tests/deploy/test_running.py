"""Each image's commands run as plain processes in the order of the compose file, and serve."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.batches import Batches, lines
from tests.clients import Requests
from tests.deploy.files import KUBERNETES, manifests, shell_lines
from tests.deploy.site import POSTGRES_BINARIES, SCRIPTS, Site, order, site, until_ready
from tests.stack import MODEL, WAIT_SECONDS, eventually

Demand = Callable[[str, int], Awaitable[None]]
EVERYTHING = ["api", "jobs", "worker"]
FAST = {
    "CARPOOL_HEARTBEAT_SECONDS": "0.2",
    "CARPOOL_POLL_SECONDS": "0.2",
    "CARPOOL_DRAIN_SECONDS": "2",
}
MANY = 40
LINES = 300
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Who drives?"}], "max_tokens": 4}
TABLES = ("requests", "results", "batches", "files", "keys", "teams", "routes")


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    """All that the compose file starts without a profile, but for the pictures of the figures."""
    with site(FAST) as made:
        until_ready(made, EVERYTHING)
        yield made


@pytest.fixture(scope="module")
def admin_key(running: Site) -> str:
    """The first one, made as the operator is told to."""
    return running.execute("api", "keys", "create", "--team", "ops", "--name", "first", "--admin")


@pytest.fixture(scope="module")
def key(running: Site) -> str:
    return running.execute("api", "keys", "create", "--team", "riders", "--name", "test")


@pytest.fixture
async def http(running: Site, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{running.root_url}/v1", headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as opened:
        yield opened


def test_the_order_is_the_compose_files(running: Site) -> None:
    assert order(running.services, EVERYTHING) == [
        "postgres", "migrate", "redis", "api", "jobs", "worker",
    ]  # fmt: skip
    assert running.processes["migrate"].returncode == 0


@pytest.mark.parametrize("name", ["postgres", "redis", *EVERYTHING])
def test_a_health_check_succeeds(running: Site, name: str) -> None:
    check = running.check(name)
    assert check.returncode == 0, check.stderr


def test_a_stock_client_is_answered(running: Site, key: str) -> None:
    with OpenAI(base_url=f"{running.root_url}/v1", api_key=key) as client:
        answer = client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
        assert answer.choices[0].message.content
        with client.chat.completions.create(**CHAT, stream=True) as stream:  # type: ignore[call-overload]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content


async def test_a_batch_completes(http: httpx.AsyncClient) -> None:
    """Its files lie where API and jobs both see them."""
    batches = Batches(http)
    batch = await batches.run(lines(LINES))
    assert batch["status"] == "completed", batch
    await batches.proven(batch, (f"r{number}" for number in range(LINES)))


def test_the_figures_are_where_prometheus_looks(running: Site) -> None:
    for name in EVERYTHING:
        variable = "CARPOOL_PORT" if name == "api" else "CARPOOL_METRICS_PORT"
        url = f"http://127.0.0.1:{running.ports[name][variable]}/metrics"
        answer = httpx.get(url, timeout=WAIT_SECONDS)
        assert answer.status_code == 200
        assert "carpool_" in answer.text


@pytest.fixture
async def demand(running: Site, admin_key: str, tmp_path: Path) -> AsyncIterator[Demand]:
    """How much KEDA reads of a backend, at the address and place that its object names."""
    objects = manifests(KUBERNETES / "overlays" / "scaled", tmp_path)
    [scaled] = [one for one in objects if one["kind"] == "ScaledObject"]
    about = scaled["spec"]["triggers"][0]["metadata"]
    folder = urlsplit(about["url"]).path.removesuffix("/gpu")
    headers = {"authorization": f"Bearer {admin_key}"}
    async with httpx.AsyncClient(
        base_url=running.root_url, headers=headers, timeout=WAIT_SECONDS
    ) as admin:

        async def read(backend: str, number: int) -> None:
            """Return when it is this number."""

            async def is_it() -> bool:
                answer = await admin.get(f"{folder}/{backend}")
                assert answer.status_code == 200, answer.text
                return bool(answer.json()[about["valueLocation"]] == number)

            await eventually(is_it)

        yield read


async def test_workers_come_from_none_and_go_to_none(
    running: Site, key: str, demand: Demand
) -> None:
    """What comes meanwhile waits; the demand that KEDA reads says how much; none is lost."""
    assert running.stop("worker") == 0
    assert running.check("worker").returncode != 0
    async with AsyncOpenAI(base_url=f"{running.root_url}/v1", api_key=key, max_retries=0) as client:

        async def ask(number: int) -> str | None:
            messages = [{"role": "user", "content": f"passenger {number}"}]
            body = CHAT | {"messages": messages}
            answer = await client.chat.completions.create(**body)  # type: ignore[call-overload]
            text: str | None = answer.choices[0].message.content
            return text

        await demand("simulated", 0)
        asked = [asyncio.create_task(ask(number)) for number in range(MANY)]
        await demand("simulated", MANY)
        assert not any(task.done() for task in asked)
        running.start("worker")
        assert all(await asyncio.gather(*asked))
        await demand("simulated", 0)
        assert running.stop("worker") == 0
        running.start("worker")
        await asyncio.to_thread(running.healthy, "worker")


async def test_a_backend_that_has_never_run_is_asked_for(
    http: httpx.AsyncClient, demand: Demand
) -> None:
    """So the first request wakes the first GPU."""
    requests = Requests(http)
    await demand("gpu", 0)
    left = await requests.leave(model="assistant")
    await demand("gpu", 1)
    await requests.cancel(left["id"])
    await demand("gpu", 0)


async def test_a_dump_of_the_database_is_restored_whole(running: Site, key: str) -> None:
    """By the README's commands; the files lie beside, and are copied as they are."""
    url = running.database_url
    copy = f"{url.rpartition('/')[0]}/restored"
    async with connected(url) as connection:
        await connection.execute("create database restored")
    for program, target in (("pg_dump", url), ("pg_restore", copy), ("carpool migrate", copy)):
        [command] = [line for line in shell_lines() if line.startswith(program)]
        await asyncio.to_thread(type_in, running, command, target)
    assert key
    assert await counts(copy) == await counts(url)
    assert (await counts(copy))["results"] > LINES


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    async with connected(url) as connection:
        return {
            table: await connection.fetchval(f"select count(*) from {table}") for table in TABLES
        }


def type_in(running: Site, command: str, url: str) -> None:
    """Run a command of the README in a shell, with a database's address in its environment."""
    path = f"{POSTGRES_BINARIES}:{SCRIPTS}:{os.environ['PATH']}"
    environment = running.environment("api") | {"CARPOOL_DATABASE_URL": url, "PATH": path}
    done = subprocess.run(
        command, shell=True, env=environment, cwd=running.directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_told_to_end_all_end_well(running: Site) -> None:
    """In any order, with the servers still there."""
    for name in EVERYTHING:
        assert running.stop(name) == 0, running.output()[-3000:]
