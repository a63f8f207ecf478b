"""Redis is a doorbell: what is put goes out packed, what cannot go out holds nobody up.

Each claim is shown on a fake and on a real Valkey.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakeredis import FakeServer
from fakeredis.aioredis import FakeRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from carpool import doorbell
from carpool.doorbell import Doorbell
from carpool.ids import new_id
from carpool.notices import (
    CHANGED_CHANNEL,
    Bell,
    Delta,
    Finished,
    Gone,
    Lost,
    Notice,
    Reads,
    Waiting,
    api_channel,
    backend_channel,
    decode_bells,
    decode_notices,
    decode_reads,
    encode,
    readers_channel,
    run_channel,
)
from cli.valkey import embedded_valkey
from tests.conformance.patience import until

TIMEOUT_SECONDS = 20.0
"""Of a call: what is late is dropped, which is not to be by a machine that is slow."""
WAIT_SECONDS = 30.0
STEPS = 40
"""Of the event loop: more than a publication, or the way to a subscription, takes."""
Make = Callable[[], Doorbell]


@pytest.fixture
async def valkey() -> AsyncIterator[Make]:
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    try:
        async with embedded_valkey(directory / "valkey") as url:
            yield lambda: Doorbell(url, timeout_seconds=TIMEOUT_SECONDS)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Make:
    server = FakeServer()

    def connect(url: str, **options: object) -> Redis:
        return FakeRedis(server=server, protocol=2)

    def make() -> Doorbell:
        with monkeypatch.context() as patch:
            patch.setattr("carpool.doorbell.Redis.from_url", connect)
            return Doorbell("redis://fake", timeout_seconds=TIMEOUT_SECONDS)

    return make


@pytest.fixture(params=["fake", "valkey"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes doorbells that reach the same Redis."""
    found: Make = request.getfixturevalue(request.param)
    return found


class Ear:
    """What a listener hears, awaited message by message."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self._heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def hear(self, channel: str, data: bytes) -> None:
        self._heard.put_nowait((channel, data))

    async def connect(self) -> None:
        self.connected.set()

    async def next(self) -> tuple[str, bytes]:
        return await asyncio.wait_for(self._heard.get(), WAIT_SECONDS)


@asynccontextmanager
async def working(bell: Doorbell, *coroutines: Awaitable[None]) -> AsyncIterator[None]:
    """Run a doorbell's loops for the length of the context."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bell.close()


@asynccontextmanager
async def listening(make: Make, *channels: str) -> AsyncIterator[Ear]:
    ear, bell = Ear(), make()
    async with working(bell, bell.listen(channels, ear.hear, ear.connect)):
        await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
        yield ear


async def test_each_message_reaches_its_channel(make: Make) -> None:
    api, run = new_id(), new_id()
    notice: Notice = Finished(new_id(), 2, 0, 200, b'{"a":1}', 3)
    waiting: Bell = Waiting("m", 1, 7)
    gone: Bell = Gone(new_id(), 2)
    reads = Reads(new_id(), new_id(), api, 3)
    channels = (
        *(api_channel(api), backend_channel("b"), run_channel(run)),
        *(readers_channel(run), CHANGED_CHANNEL),
    )
    async with listening(make, *channels) as ear:
        bell = make()
        async with working(bell, bell.serve()):
            bell.notify(api, notice)
            bell.ring("b", waiting)
            bell.tell_run(run, gone)
            bell.tell_reader(run, reads)
            bell.announce(CHANGED_CHANNEL)
            heard = dict([await ear.next() for _ in channels])
    assert decode_notices(heard[api_channel(api)]) == [notice]
    assert decode_bells(heard[backend_channel("b")]) == [waiting]
    assert decode_bells(heard[run_channel(run)]) == [gone]
    assert decode_reads(heard[readers_channel(run)]) == [reads]
    assert CHANGED_CHANNEL in heard


async def test_what_is_put_together_goes_together_in_order(make: Make) -> None:
    api = new_id()
    notices: list[Notice] = [Lost(new_id(), number) for number in range(50)]
    async with listening(make, api_channel(api)) as ear:
        bell = make()
        async with working(bell, bell.serve()):
            for notice in notices:
                bell.notify(api, notice)
            _, data = await ear.next()
    assert decode_notices(data) == notices


async def test_chunks_added_before_the_publication_go_with_it(make: Make) -> None:
    """How a stream packs: the list that it has put may grow until `publication` does."""
    api = new_id()
    chunks = [b"0"]
    delta = Delta(new_id(), 1, 0, chunks)
    async with listening(make, api_channel(api)) as ear:
        bell = make()
        async with working(bell, bell.serve()):
            before = bell.publication
            bell.notify(api, delta)
            chunks += [b"1", b"2"]
            assert bell.publication == before
            _, data = await ear.next()
            assert bell.publication == before + 1
    assert decode_notices(data) == [Delta(delta.id, 1, 0, [b"0", b"1", b"2"])]


async def test_a_listener_hears_its_own_channels_alone(make: Make) -> None:
    mine, other = new_id(), new_id()
    async with listening(make, api_channel(mine)) as ear:
        bell = make()
        async with working(bell):
            await bell.publish({api_channel(other): [Lost(other, 1)]})
            await bell.publish({api_channel(mine): [Lost(mine, 1)]})
        assert await ear.next() == (api_channel(mine), encode([Lost(mine, 1)]))


async def test_a_ping_tells_that_redis_is_there(make: Make) -> None:
    bell = make()
    async with working(bell):
        assert await bell.ping()
        assert bell.healthy


async def test_what_cannot_be_published_is_dropped_and_the_rest_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = new_id()
    async with listening(make, api_channel(api)) as ear:
        bell = make()
        dropped = asyncio.Event()

        async def away(*arguments: object) -> int:
            dropped.set()
            raise RedisConnectionError("away")

        async with working(bell, bell.serve()):
            with monkeypatch.context() as patch:
                patch.setattr(bell._redis, "publish", away)
                bell.notify(api, Lost(api, 1))
                await asyncio.wait_for(dropped.wait(), WAIT_SECONDS)
                await asyncio.sleep(0)
                assert not bell.healthy
            bell.notify(api, Lost(api, 2))
            assert decode_notices((await ear.next())[1]) == [Lost(api, 2)]
            # It may be heard before the one who said it is told so.
            await until(lambda: bell.healthy)


async def test_a_redis_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that is cut without a word, as by a pulled cable."""
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1")
    port = silent.sockets[0].getsockname()[1]
    bell = Doorbell(f"redis://127.0.0.1:{port}", timeout_seconds=0.1)
    async with working(bell):
        async with asyncio.timeout(WAIT_SECONDS):
            assert not await bell.ping()
            await bell.publish({CHANGED_CHANNEL: []})
        assert not bell.healthy
    silent.close()
    assert accepted
    for writer in accepted:
        writer.close()
        await writer.wait_closed()


async def test_a_listener_comes_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said meanwhile is lost; ``connected`` is how its user learns that."""
    monkeypatch.setattr(doorbell, "RECONNECT_SECONDS", 0.01)
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    try:
        ear = Ear()
        async with embedded_valkey(directory / "valkey") as url:
            bell = Doorbell(url, timeout_seconds=TIMEOUT_SECONDS)
            listener = asyncio.ensure_future(bell.listen((CHANGED_CHANNEL,), ear.hear, ear.connect))
            await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
        ear.connected.clear()
        assert not await bell.ping()
        async with embedded_valkey(directory / "valkey"), working(bell, listener):
            await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
            await bell.publish({CHANGED_CHANNEL: []})
            assert (await ear.next())[0] == CHANGED_CHANNEL
            assert bell.healthy
    finally:
        shutil.rmtree(directory)


async def test_a_listener_is_connected_once_its_subscription_is_confirmed() -> None:
    """What is said before that is not heard, so the look at Postgres must come after it."""
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    held, let_go = asyncio.Event(), asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"SUBSCRIBE" in data:
                held.set()
                await let_go.wait()
            writer.write(data)
        writer.close()

    try:
        async with embedded_valkey(directory / "valkey") as url:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there = await asyncio.open_unix_connection(url.removeprefix("unix://"))
                await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

            slow = directory / "slow.sock"
            async with await asyncio.start_unix_server(serve, slow):
                ear, other = Ear(), Doorbell(url, timeout_seconds=TIMEOUT_SECONDS)
                bell = Doorbell(f"unix://{slow}", timeout_seconds=TIMEOUT_SECONDS)
                listens = bell.listen((CHANGED_CHANNEL,), ear.hear, ear.connect)
                async with working(bell, listens), working(other):
                    await asyncio.wait_for(held.wait(), WAIT_SECONDS)
                    await other.publish({CHANGED_CHANNEL: []})
                    assert not ear.connected.is_set()
                    let_go.set()
                    await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
                    await other.publish({CHANGED_CHANNEL: []})
                    assert (await ear.next())[0] == CHANGED_CHANNEL
    finally:
        shutil.rmtree(directory)


async def test_a_listener_that_comes_back_to_a_redis_that_does_not_answer_gives_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is let in and told nothing; once Redis answers, ``connected`` says so."""
    monkeypatch.setattr(doorbell, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(doorbell, "PING_SECONDS", 0.1)
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    answers, callers = asyncio.Event(), set[asyncio.StreamWriter]()
    answers.set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    try:
        async with embedded_valkey(directory / "valkey") as url:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                callers.add(writer)
                await answers.wait()
                there = await asyncio.open_unix_connection(url.removeprefix("unix://"))
                await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

            relay = directory / "relay.sock"
            async with await asyncio.start_unix_server(serve, relay):
                ear, bell = Ear(), Doorbell(f"unix://{relay}", timeout_seconds=0.5)
                async with working(bell, bell.listen((CHANGED_CHANNEL,), ear.hear, ear.connect)):
                    await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
                    ear.connected.clear()
                    answers.clear()
                    for caller in list(callers):
                        caller.close()
                    await until(lambda: not bell.healthy)
                    answers.set()
                    await asyncio.wait_for(ear.connected.wait(), WAIT_SECONDS)
                    assert bell.healthy
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("listens", [False, True], ids=["serves", "listens"])
async def test_it_ends_wherever_it_is_cancelled(valkey: Make, listens: bool) -> None:
    """redis-py's own time limit swallows a cancellation of the moment in which a write is done."""
    for steps in range(STEPS):
        door = valkey()
        ear = Ear()
        if listens:
            loop = asyncio.create_task(door.listen((CHANGED_CHANNEL,), ear.hear, ear.connect))
        else:
            await door.publish({CHANGED_CHANNEL: []})
            loop = asyncio.create_task(door.serve())
            door.announce(CHANGED_CHANNEL)
        for _ in range(steps):
            await asyncio.sleep(0)
        loop.cancel()
        ended, _ = await asyncio.wait({loop}, timeout=WAIT_SECONDS)
        assert ended, steps
        await door.close()
