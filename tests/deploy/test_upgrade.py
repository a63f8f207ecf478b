"""Under load the schema is brought forward and each process replaced: nothing lost or doubled.

`release-0003.tar.xz` holds Carpool's packages as they were at schema 0003, so that the test needs
no history of the repository: the old processes run the old code, on the old schema and on the new.
"""

import asyncio
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.batches import Batches, lines
from tests.deploy.site import Site, site
from tests.faults.load import Load, agree, answered, settled
from tests.stack import END_SECONDS, Json, Stack, eventually

RELEASE = Path(__file__).with_name("release-0003.tar.xz")
OLD_SCHEMA = "0003"
SETTINGS = {
    "CARPOOL_HEARTBEAT_SECONDS": "0.2",
    "CARPOOL_POLL_SECONDS": "0.2",
    "CARPOOL_DRAIN_SECONDS": "5",
}
PROCESSES = {
    "worker-1": "worker", "jobs-1": "jobs", "api-1": "api", "worker-2": "worker", "api-2": "api",
}  # fmt: skip
"""In the order in which they are replaced, with the services that they are of."""
CLIENTS = 8
LINES = 1500
"""Of a batch that is worked on meanwhile."""
PACE = {"carpool_simulate": {"milliseconds_per_token": 800}}
"""Of its lines, whose answers have two tokens: a few rounds for the two workers."""
PARKED = 200
"""Lines of a batch that waits meanwhile: its model's backends are not up."""
PARKED_MODEL = "assistant"
NAME_DIGITS = 12
"""Of a process's id, which stand in a result for its worker."""
BETWEEN = 20
"""So many answers are seen before the next step."""
VERSION = "select version_num from alembic_version"
ENTERED = "select id from processes where pid = $1 and ended_at is null"
QUEUED = "select count(*) from queue where model = $1"
ANSWERED_BY = """
select distinct s.worker from requests r join results s on s.id = r.id where r.batch_id = $1::uuid
"""
ROWS = """
select count(*) as requests, count(s.id) as results
from requests r left join results s on s.id = r.id where r.batch_id = $1::uuid
"""


@dataclass(kw_only=True, slots=True)
class Fleet:
    """Two APIs on one listening socket, two workers, and jobs, each of the old code or the new."""

    site: Site
    old: Path
    """Where the old packages lie."""
    listener: socket.socket
    stack: Stack | None = field(default=None)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"

    def environment(self, service: str, *, new: bool) -> dict[str, str]:
        whole = self.site.environment(service) | {"CARPOOL_METRICS_PORT": "0"}
        return whole if new else whole | {"PYTHONPATH": str(self.old)}

    def migrate(self, *, new: bool) -> None:
        """Run the migrations of one of the codes to their end."""
        self.site.run("migrate", self.site.command("migrate"), self.environment("migrate", new=new))
        assert self.site.processes["migrate"].wait(END_SECONDS) == 0, self.site.output()

    def start(self, name: str, *, new: bool) -> None:
        service = PROCESSES[name]
        environment = self.environment(service, new=new)
        if service == "api":
            environment |= {"CARPOOL_LISTEN_FD": str(self.listener.fileno())}
        self.site.run(
            name, self.site.command(service), environment, pass_fds=(self.listener.fileno(),)
        )

    async def entered(self, name: str) -> str:
        """The name of a process in results, once it has made itself known."""
        process = self.site.processes[name]

        async def here() -> Any:
            assert process.poll() is None, self.site.output()[-6000:]
            assert self.stack is not None
            return await self.stack.value(ENTERED, process.pid)

        identifier: UUID = await eventually(here)
        return identifier.hex[-NAME_DIGITS:]

    async def replace(self, name: str) -> str:
        """End a process in order, and return when one of the new code is in its place."""
        code = await asyncio.to_thread(self.site.stop, name)
        assert code == 0, self.site.output()[-6000:]
        self.start(name, new=True)
        return await self.entered(name)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with tarfile.open(RELEASE) as packed:
        packed.extractall(tmp_path, filter="data")
    with site(SETTINGS) as made, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.set_inheritable(True)
        yield Fleet(site=made, old=tmp_path, listener=listener)


@pytest_asyncio.fixture
async def stack(fleet: Fleet) -> AsyncIterator[Stack]:
    """The old release, serving."""
    for name in ("postgres", "redis"):
        fleet.site.start(name)
        await asyncio.to_thread(fleet.site.healthy, name)
    fleet.migrate(new=False)
    fleet.site.settings = {**fleet.site.settings, "PYTHONPATH": str(fleet.old)}
    key = fleet.site.execute("api", "keys", "create", "--team", "riders", "--name", "test")
    fleet.site.settings = SETTINGS
    for name in PROCESSES:
        fleet.start(name, new=False)
    made = fleet.stack = Stack(
        directory=fleet.site.directory,
        process=fleet.site.processes["api-1"],
        base_url=fleet.address,
        api_key=key,
        admin_key=key,
        database_url=fleet.site.database_url,
        redis_url=fleet.site.redis_url,
    )
    for name in PROCESSES:
        await fleet.entered(name)
    await eventually(made.ready)
    yield made


async def test_an_upgrade_under_load_loses_and_doubles_nothing(fleet: Fleet, stack: Stack) -> None:
    """Blocking requests, streams and batches; migrations first, then process by process."""
    assert await stack.value(VERSION) == OLD_SCHEMA
    async with stack.http() as http, stack.async_client(max_retries=2) as client:
        batches = Batches(http)
        batch = await batches.create(lines(LINES, body=PACE))
        parked = await batches.create(lines(PARKED, body={"model": PARKED_MODEL}))
        new = set()
        async with Load(client, clients=CLIENTS, max_tokens=8) as load:
            await eventually(lambda: answered_by(stack, batch))
            await eventually(lambda: is_queued(stack, PARKED))
            await asyncio.to_thread(fleet.migrate, new=True)
            assert await stack.value(VERSION) > OLD_SCHEMA
            await load.more(BETWEEN)
            for process in PROCESSES:
                new.add(await fleet.replace(process))
                await load.more(BETWEEN)
        answered(load.views)
        fleet.site.execute("api", "routes", "set", PARKED_MODEL, "simulated=simulated")
        for made, number in ((batch, LINES), (parked, PARKED)):
            ended = await batches.ended(made["id"])
            assert ended["status"] == "completed", ended
            await batches.proven(ended, (f"r{place}" for place in range(number)))
            [rows] = await stack.fetch(ROWS, name(made))
            assert dict(rows) == {"requests": number, "results": number}
    await settled(stack)
    held = await agree(stack, load.views)
    assert all(len(held[view.prompt]) == 1 for view in load.views)
    assert await answered_by(stack, batch) - new, "the old code has answered none of the lines"
    assert await answered_by(stack, parked) <= new, "the old code is still there"


def name(batch: Json) -> str:
    return str(batch["id"]).removeprefix("batch_")


async def answered_by(stack: Stack, batch: Json) -> set[str]:
    """The processes that have answered lines of a batch."""
    return {row["worker"] for row in await stack.fetch(ANSWERED_BY, name(batch))}


async def is_queued(stack: Stack, number: int) -> bool:
    return bool(await stack.value(QUEUED, PARKED_MODEL) == number)
