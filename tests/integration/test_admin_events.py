"""Many watch one overview: each gets the newest of it, and nobody's slowness is anyone else's."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from api.admin_watch import MOST_WATCHERS
from carpool.ids import new_id
from db.keys import create_key, revoke_key
from tests.clients import CHAT
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory

WAIT_SECONDS = 60.0
STALL_SECONDS = 5
END_SECONDS = 10.0
"""The process would wait 15 for connections that do not end."""
SLOW = 10
UNREADABLE = """
insert into runs (id, backend, slot, process_id, worker, capacity, figures)
select $1, 'simulated', 99, process_id, worker, capacity, 'no json' from runs
where ended_at is null limit 1
returning true
"""
HUGE = """
insert into queue (id, key_id, model, team_id, class, prefix_key, endpoint, streamed)
select id, id, place || repeat('x', 5000), 1, 0, 0, 0, false
from unnest($1::uuid[]) with ordinality as row(id, place)
"""


@pytest.fixture(scope="module")
def watched() -> Iterator[Stack]:
    """A stack that these tests alone watch, with little patience for clients that take nothing."""
    with stack_in_temporary_directory({"CARPOOL_STALL_SECONDS": str(STALL_SECONDS)}) as started:
        yield started


class Eye:
    """A bare connection that watches."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        """Of the answer; its head is read."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        return int(head.split()[1])

    async def next(self, kind: str = "overview") -> Json:
        """The data of the next event of a kind."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.reader.readline()).strip() != f"event: {kind}".encode():
                assert not self.reader.at_eof()
            found: Json = json.loads((await self.reader.readline()).removeprefix(b"data: "))
            return found

    async def changed(self, what: str) -> None:
        """Return when it is told that something has changed; other changes may come before."""
        while await self.next("changed") != {"what": what}:
            pass

    async def ended(self) -> None:
        """Return when the stream has ended."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.reader.read(1 << 20):
                pass


@pytest.fixture
async def stack_of_eyes() -> AsyncIterator[AsyncExitStack]:
    """What closes the connections of a test."""
    async with AsyncExitStack() as opened:
        yield opened


async def open_eye(
    stack: Stack, opened: AsyncExitStack, key: str | None = None, *, small: bool = False
) -> Eye:
    """Watch; ``small`` with little room for what is not read."""
    address = urlsplit(stack.root_url)
    plug = socket.socket()
    plug.setblocking(False)
    if small:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(plug, (address.hostname, address.port))
    # Of one that does not read, asyncio itself must take little too.
    reader, writer = await asyncio.open_connection(sock=plug, limit=1024 if small else 1 << 22)
    opened.callback(writer.close)
    writer.write(
        b"GET /admin/v1/events HTTP/1.0\r\nhost: here\r\nauthorization: Bearer %b\r\n\r\n"
        % (key or stack.admin_key).encode()
    )
    return Eye(reader, writer)


async def test_a_watcher_sees_at_once_and_then_what_changes(
    watched: Stack, stack_of_eyes: AsyncExitStack
) -> None:
    """A request that comes, a route that is switched, a worker that is drained."""
    eye = await open_eye(watched, stack_of_eyes)
    assert await eye.status() == 200
    first = await eye.next()
    assert first["object"] == "overview"
    async with watched.http() as http:
        assert (await http.post("/chat/completions", json=CHAT)).is_success
    while (seen := await eye.next())["today"]["requests"] == first["today"]["requests"]:
        pass
    while not seen["rates"]["requests_per_second"]:  # which waits for the folding
        seen = await eye.next()
    headers = {"authorization": f"Bearer {watched.admin_key}"}
    async with httpx.AsyncClient(
        base_url=f"{watched.root_url}/admin/v1", headers=headers, timeout=30
    ) as admin:
        route = {"legs": [{"backend": "simulated", "upstream": "simulated"}]}
        await admin.put("/routes/another", json=route)
        await eye.changed("routes")
        workers = (await admin.get("/workers")).json()["data"]
        [worker] = [found for found in workers if found["kind"] == "worker"]
        await admin.post(f"/workers/{worker['id']}/drain")
        await eye.changed("workers")
        await admin.post(f"/workers/{worker['id']}/resume")


async def test_a_thousand_watch_and_the_slow_are_cut(
    watched: Stack, stack_of_eyes: AsyncExitStack
) -> None:
    """The others see on; one more than there is room for is sent away, and may come later."""
    eyes = [await open_eye(watched, stack_of_eyes) for _ in range(MOST_WATCHERS - SLOW)]
    slow = [await open_eye(watched, stack_of_eyes, small=True) for _ in range(SLOW)]
    assert set(await asyncio.gather(*(eye.status() for eye in (*eyes, *slow)))) == {200}
    await asyncio.gather(*(eye.next() for eye in eyes))
    assert await (await open_eye(watched, stack_of_eyes)).status() == 503
    async with watched.http() as http:
        assert (await http.post("/chat/completions", json=CHAT)).is_success
    await asyncio.gather(*(eye.next() for eye in eyes))
    for eye in eyes[50:]:
        eye.writer.close()
    reading = [asyncio.create_task(_see_huge(eye)) for eye in eyes[:5]]
    await watched.fetch(HUGE, [new_id() for _ in range(100)])

    async def all_cut() -> bool:
        return watched.output().count("watcher_stalled") == SLOW

    for eye in eyes[5:50]:
        eye.writer.close()
    await eventually(all_cut, WAIT_SECONDS)
    await asyncio.gather(*reading)
    await watched.fetch("delete from queue")
    assert await (await open_eye(watched, stack_of_eyes)).status() == 200
    for eye in slow:
        with pytest.raises(ConnectionResetError):
            await eye.ended()


async def _see_huge(eye: Eye) -> None:
    while len((await eye.next())["queues"]) < 100:
        pass


async def test_a_watcher_whose_key_is_revoked_sees_no_more(
    watched: Stack, stack_of_eyes: AsyncExitStack
) -> None:
    async with watched.database() as database:
        key = await create_key(database, team="ops", name="ops", admin=True)
        eye = await open_eye(watched, stack_of_eyes, key.secret)
        other = await open_eye(watched, stack_of_eyes)
        for one in (eye, other):
            assert await one.status() == 200
            await one.next()
        assert await revoke_key(database, str(key.id))
        await eye.ended()
    async with watched.http() as http:
        assert (await http.post("/chat/completions", json=CHAT)).is_success
    await other.next()


async def test_what_cannot_be_read_ends_neither_the_watch_nor_the_process(
    watched: Stack, stack_of_eyes: AsyncExitStack
) -> None:
    """Though nothing has changed meanwhile, the overview is told again once it can be read."""
    eye = await open_eye(watched, stack_of_eyes)
    assert await eye.status() == 200
    pid = watched.pid("api")
    run = new_id()
    await eye.next()
    await eventually(lambda: watched.fetch(UNREADABLE, run))
    assert "cannot be read" in (await eye.next("away"))["text"]
    await watched.fetch("delete from runs where id = $1", run)
    assert (await eye.next())["object"] == "overview"
    assert watched.pid("api") == pid


async def test_watchers_do_not_hold_up_the_end_of_the_process(
    watched: Stack, stack_of_eyes: AsyncExitStack
) -> None:
    eye = await open_eye(watched, stack_of_eyes)
    assert await eye.status() == 200
    await eye.next()
    old = watched.pid("api")
    began = asyncio.get_running_loop().time()
    replacing = asyncio.create_task(watched.replace("api", signal.SIGTERM))

    async def gone() -> bool:
        return not psutil.pid_exists(old)

    await eventually(gone)
    assert asyncio.get_running_loop().time() - began < END_SECONDS
    await eye.ended()
    await replacing
