"""A worker is drained and goes on under load: nothing is lost, and nothing claimed in between."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.clients import CHAT, FOREVER, Requests
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory

SETTINGS = {"CARPOOL_DRAIN_SECONDS": "60", "CARPOOL_POLL_SECONDS": "10"}
"""No drain here ends by its time, and what only a poll finds is found too late."""
AT_ONCE_SECONDS = 5.0
LONG = CHAT | {"max_tokens": 10, "carpool_simulate": {"milliseconds_per_token": 100}}
"""Answered after so long that, of some that are asked at once, most are at work together."""
CLAIMED = "select count(*) from queue where state = 1"
WAITING = "select count(*) from queue"


@pytest.fixture(scope="module")
def busy_stack() -> Iterator[Stack]:
    """One worker whose answers take a while, of a stack that these tests alone use."""
    with stack_in_temporary_directory(SETTINGS) as started:
        yield started


@pytest.fixture
async def admin(busy_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """The admin API by an admin's key."""
    async with httpx.AsyncClient(
        base_url=f"{busy_stack.root_url}/admin/v1",
        headers={"authorization": f"Bearer {busy_stack.admin_key}"},
        timeout=30,
    ) as client:

        async def serves() -> bool:
            return any(
                worker["state"] == "live" and worker["runs"] for worker in await workers(client)
            )

        await eventually(serves)
        yield client


async def workers(admin: httpx.AsyncClient, kind: str = "worker") -> list[Json]:
    """The processes of a kind."""
    listed = (await admin.get("/workers")).json()
    assert listed["object"] == "list"
    return [found for found in listed["data"] if found["kind"] == kind]


async def counts_more(stack: Stack, event: str, number: int) -> bool:
    """Whether an event was logged more often than so many times."""
    return stack.output().count(event) > number


async def until(admin: httpx.AsyncClient, identifier: str, state: str) -> Json:
    """A worker once it is in a state."""

    async def look() -> Json | None:
        found: Json = (await admin.get(f"/workers/{identifier}")).json()
        return found if found["state"] == state else None

    return await eventually(look)


async def test_a_worker_drained_under_load_loses_nothing_and_goes_on_at_once(
    busy_stack: Stack, admin: httpx.AsyncClient
) -> None:
    [worker] = await workers(admin)
    over = asyncio.Event()
    answers: list[int] = []

    async def ask(http: httpx.AsyncClient) -> None:
        while not over.is_set():
            answers.append((await http.post("/chat/completions", json=LONG)).status_code)

    async with busy_stack.http() as http:
        asking = [asyncio.create_task(ask(http)) for _ in range(24)]

        async def claimed() -> bool:
            return bool(await busy_stack.value(CLAIMED) > 10)

        for _ in range(3):
            await eventually(claimed)
            drained = (await admin.post(f"/workers/{worker['id']}/drain")).json()
            assert drained["state"] in ("draining", "paused")
            paused = await until(admin, worker["id"], "paused")
            assert paused["runs"] == []
            assert paused["pid"] == worker["pid"]

            async def all_wait() -> bool:
                return bool(await busy_stack.value(WAITING) == len(asking))

            await eventually(all_wait)
            assert await busy_stack.value(CLAIMED) == 0
            [why] = await eventually(lambda: reasons(admin))
            assert why == "no_live_backend"
            before, began = len(answers), asyncio.get_running_loop().time()
            resumed = (await admin.post(f"/workers/{worker['id']}/resume")).json()
            assert resumed["state"] == "live"

            await eventually(claimed)
            assert asyncio.get_running_loop().time() - began < AT_ONCE_SECONDS

            async def answered(before: int = before) -> bool:
                return len(answers) > before

            await eventually(answered)
        over.set()
        await asyncio.gather(*asking)
    assert set(answers) == {200}
    results = "select count(*) from results"
    assert await busy_stack.value(results) == len(answers)
    assert await busy_stack.value("select count(*) from attempts") == 0
    assert (await workers(admin))[0]["pid"] == worker["pid"]


async def reasons(admin: httpx.AsyncClient) -> list[str]:
    """Why the groups of the queue wait."""
    overview = (await admin.get("/overview")).json()
    found = [queue["reason"] for queue in overview["queues"] if queue["waiting"]]
    return found if all(found) else []


async def test_a_worker_tells_what_its_run_holds_and_what_its_engine_does(
    busy_stack: Stack, admin: httpx.AsyncClient
) -> None:
    async with busy_stack.http() as http:
        requests = Requests(http)
        held = [await requests.leave(**FOREVER) for _ in range(3)]

        async def holds() -> Json | None:
            [worker] = await workers(admin)
            [run] = worker["runs"]
            full = run["in_flight"] == 3 and run["figures"]["running"] == 3
            return run if full else None

        run = await eventually(holds)
        assert (run["backend"], run["capacity"], run["accepting"]) == ("simulated", 256, True)
        assert run["figures"] == {"kind": "simulated", "running": 3}
        for left in held:
            await requests.cancel(left["id"])


async def test_a_worker_resumed_while_it_drains_claims_at_once(
    busy_stack: Stack, admin: httpx.AsyncClient
) -> None:
    """In the same run, which keeps what it holds; and so again."""
    [worker] = [found for found in await workers(admin) if found["state"] == "live"]
    async with busy_stack.http() as http:
        requests = Requests(http)
        held = await requests.leave(**FOREVER)
        await requests.until(held["id"], "in_progress")
        [run] = worker["runs"]
        for _ in range(2):
            known = busy_stack.output().count("worker_paused")
            await admin.post(f"/workers/{worker['id']}/drain")
            await eventually(partial(counts_more, busy_stack, "worker_paused", known))
            asked = await requests.leave()
            draining = (await admin.get(f"/workers/{worker['id']}")).json()
            assert draining["state"] == "draining"
            assert [one["id"] for one in draining["runs"]] == [run["id"]]
            await admin.post(f"/workers/{worker['id']}/resume")
            assert (await requests.get(asked["id"], wait=20))["status"] == "completed"
            assert (await requests.get(held["id"]))["status"] == "in_progress"
        [now] = (await admin.get(f"/workers/{worker['id']}")).json()["runs"]
        assert now["id"] == run["id"]
        await requests.cancel(held["id"])


async def test_a_worker_that_was_killed_is_shown_dead_and_its_successor_live(
    busy_stack: Stack, admin: httpx.AsyncClient
) -> None:
    [old] = await workers(admin)
    pid = await busy_stack.replace("worker simulated-1")

    async def both() -> dict[int, str] | None:
        states = {found["pid"]: found["state"] for found in await workers(admin)}
        return states if states.get(pid) == "live" else None

    assert (await eventually(both))[old["pid"]] == "dead"
    answer = await admin.post(f"/workers/{old['id']}/drain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "worker_dead")

    async def overview_tells() -> bool:
        processes = (await admin.get("/overview")).json()["processes"]
        [of_workers] = [found for found in processes if found["kind"] == "worker"]
        return bool((of_workers["live"], of_workers["dead"]) == (1, 1))

    await eventually(overview_tells)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
async def test_a_drained_worker_that_is_started_anew_claims_when_it_is_resumed(
    busy_stack: Stack, admin: httpx.AsyncClient, number: signal.Signals
) -> None:
    [old] = [found for found in await workers(admin) if found["state"] == "live"]
    await admin.post(f"/workers/{old['id']}/drain")
    await until(admin, old["id"], "paused")
    async with busy_stack.http() as http:
        asked = await Requests(http).leave()
        ready = busy_stack.output().count("engine_ready")
        pid = await busy_stack.replace("worker simulated-1", number)

        async def successor() -> Json | None:
            found = next((found for found in await workers(admin) if found["pid"] == pid), None)
            return found if found and found["state"] == "paused" else None

        worker = await eventually(successor)
        await eventually(partial(counts_more, busy_stack, "engine_ready", ready))
        resumed_at = await busy_stack.value("select now()")
        assert (await admin.post(f"/workers/{worker['id']}/resume")).json()["state"] == "live"
        assert (await Requests(http).get(asked["id"], wait=20))["status"] == "completed"
    [run] = (await admin.get(f"/workers/{worker['id']}")).json()["runs"]
    assert run["started_at"] > resumed_at.timestamp()


@pytest.mark.parametrize(
    "identifier",
    ["proc_" + "0" * 32, "proc_x", "run_" + "0" * 32, "0" * 32, "%00", "proc_" + "A" * 32],
)
async def test_an_unknown_process_is_not_found(admin: httpx.AsyncClient, identifier: str) -> None:
    for method, path in (("GET", ""), ("POST", "/drain"), ("POST", "/resume")):
        answer = await admin.request(method, f"/workers/{identifier}{path}")
        assert answer.status_code == 404, answer.text


async def test_only_workers_can_be_drained(admin: httpx.AsyncClient) -> None:
    for kind in ("api", "jobs"):
        for found in await workers(admin, kind):
            answer = await admin.post(f"/workers/{found['id']}/drain")
            error: Any = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "id")


async def test_a_worker_that_nobody_tells_learns_it_by_its_heartbeat(
    busy_stack: Stack, admin: httpx.AsyncClient
) -> None:
    """As without Redis: the flag alone is set, and no bell rings."""
    [worker] = [found for found in await workers(admin) if found["state"] == "live"]
    await busy_stack.fetch("update processes set paused_at = now() where kind = 'worker'")
    assert (await until(admin, worker["id"], "paused"))["runs"] == []
    await busy_stack.fetch("update processes set paused_at = null")

    async def serves() -> bool:
        return bool((await admin.get(f"/workers/{worker['id']}")).json()["runs"])

    await eventually(serves)
