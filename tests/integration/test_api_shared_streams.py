"""Who follows a stream reads its chunks as they come: each once, in order, of one computation."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest

from carpool.ids import parse_public_id
from carpool.routing import Leg, Route
from carpool.states import Outcome
from cli.port import free_port
from db.keys import NewKey
from db.routes import set_route
from tests.clients import CHAT, Requests
from tests.double.launch import Double
from tests.faults.processes import killed, late, stopped
from tests.stack import Json, Stack, eventually, stack_in_temporary_directory

CONFIG = """
[backends.provider]
kind = "openai"
base_url = "{url}"
models = []

[backends.own]
kind = "simulated"

[models.house]
backends = ["provider"]
upstream = "gpt-6-luna"

[models.slow]
backends = ["own"]
upstream = "simulated"

[[models.later.legs]]
backend = "provider"
after_seconds = 86400
"""
PATH = "/v1/chat/completions"
RETRY = {"x-stainless-retry-count": "1"}
WORKER = "worker provider-1"
HELD = 3
"""How many chunks the double sends before it waits."""
CUT = 5
"""How many it sends of an answer that breaks."""
DONE = b"data: [DONE]"
FOLLOWING = "select count(*) from queue where leader is not null"


def words(event: bytes) -> str:
    """What a chunk adds to the text."""
    [choice] = msgspec.json.decode(event.removeprefix(b"data: "))["choices"]
    text: str = choice["delta"].get("content", "")
    return text


class Reader:
    """A client that reads a stream in the background, from its making on."""

    def __init__(self, http: httpx.AsyncClient, content: Json, **headers: str) -> None:
        self.status = 0
        self.identifier = ""
        self.backend = ""
        self.events: list[bytes] = []
        """What was read so far; comments are left out."""
        self.body = b""
        """Where it is no stream."""
        self._task = asyncio.create_task(self._read(http, content, headers))

    async def until(self, count: int) -> list[bytes]:
        """The first events, once so many are read."""

        async def come() -> bool:
            if self._task.done():
                self._task.result()
            return len(self.events) >= count

        await eventually(come)
        return self.events[:count]

    async def end(self) -> list[bytes]:
        """All events, once the answer has ended."""
        await self._task
        return self.events

    async def hang_up(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def id(self) -> UUID:
        return parse_public_id("req_", self.identifier)

    @property
    def error(self) -> str:
        """The code of the error that the last event, or the body, tells."""
        text = self.body or self.events[-1].removeprefix(b"data: ")
        code: str = msgspec.json.decode(text)["error"]["code"]
        return code

    async def _read(self, http: httpx.AsyncClient, content: Json, headers: dict[str, str]) -> None:
        ask = http.stream("POST", "/chat/completions", json=content, headers=headers)
        async with ask as answer:
            self.status = answer.status_code
            self.identifier = answer.headers["x-request-id"]
            self.backend = answer.headers.get("x-carpool-backend", "")
            async for part in answer.aiter_bytes():
                *events, self.body = (self.body + part).split(b"\n\n")
                self.events += [event for event in events if event.startswith(b"data: ")]


@pytest.fixture(scope="module")
def config(served: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("shared") / "carpool.toml"
    path.write_text(CONFIG.format(url=served))
    return path


@pytest.fixture(scope="module")
def sharing(config: Path) -> Iterator[Stack]:
    """A stack with the double as its provider."""
    with stack_in_temporary_directory(options=("--config", str(config))) as stack:
        yield stack


@pytest.fixture
async def key(sharing: Stack, request: pytest.FixtureRequest) -> NewKey:
    return await sharing.new_key(request.node.nodeid)


@pytest.fixture
async def http(sharing: Stack, key: NewKey) -> AsyncIterator[httpx.AsyncClient]:
    async with sharing.http(key.secret) as client:
        yield client


def body(**fields: object) -> Json:
    return CHAT | {"model": "house", "temperature": 0, "stream": True} | fields


async def calls(double: Double) -> int:
    return len((await double.seen()).of(PATH))


async def joined(sharing: Stack, number: int = 1) -> None:
    """Return when so many follow."""

    async def follow() -> bool:
        return bool(await sharing.value(FOLLOWING) == number)

    await eventually(follow)


async def alone(http: httpx.AsyncClient, content: Json) -> list[bytes]:
    """What the same request reads that shares nothing."""
    return await Reader(http, content, **{"cache-control": "no-store"}).end()


@asynccontextmanager
async def another_api(
    sharing: Stack, config: Path, http: httpx.AsyncClient
) -> AsyncIterator[httpx.AsyncClient]:
    """The way of the same client to a second API process, which ends in order with the context."""
    port = free_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    client = httpx.AsyncClient(base_url=f"{url}/v1", headers=http.headers, timeout=http.timeout)

    async def ready() -> bool:
        try:
            return (await client.get(f"{url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async with client:
        with late(sharing, "api", "--port", str(port), "--config", str(config)):
            await eventually(ready)
            yield client


async def test_who_joins_late_reads_all_chunks_from_the_first_on(
    sharing: Stack, key: NewKey, http: httpx.AsyncClient, double: Double
) -> None:
    """Those of before at once, the others as they come; the end is each one's own."""
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    followers = [Reader(http, body()) for _ in range(3)]
    for follower in followers:
        assert await follower.until(HELD) == begun
    assert len(leader.events) == HELD
    await double.release()
    whole = await leader.end()
    assert whole[-1] == DONE
    for follower in followers:
        assert await follower.end() == whole
    assert await calls(double) == 1
    readers = [leader, *followers]
    assert len({reader.identifier for reader in readers}) == 4
    assert {reader.backend for reader in readers} == {"provider"}
    delivered = "select count(*) from deliveries where id = any($1::uuid[])"
    ids = [reader.id for reader in readers]
    await eventually(lambda: sharing.value(f"{delivered} having count(*) = 4", ids))
    [row] = await sharing.fetch(
        "select count(*) as n, count(distinct body) as bodies, "
        "count(*) filter (where started_at is not null) as computed "
        "from results r join keys k using (team_id) where k.id = $1",
        key.id,
    )
    assert tuple(row) == (4, 1, 1)


async def test_a_stock_client_reads_a_followed_stream(
    sharing: Stack, key: NewKey, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    content: Json = {"model": "house", "messages": CHAT["messages"], "temperature": 0}
    async with sharing.async_client(api_key=key.secret) as client:
        leader = await client.chat.completions.create(**content, stream=True)
        begun = [await anext(leader) for _ in range(HELD)]
        follower = await client.chat.completions.create(**content, stream=True)
        assert [await anext(follower) for _ in range(HELD)] == begun
        await double.release()
        rest = [chunk async for chunk in leader]
        assert [chunk async for chunk in follower] == rest
    assert rest[-1].choices[0].finish_reason == "stop"
    assert await calls(double) == 1


async def test_those_that_wait_together_read_together(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """They followed before the leader was claimed: the claim finds them."""
    content = body(model="later")
    await double.fault(PATH, hang_after_chunks=HELD)
    readers = [Reader(http, content) for _ in range(8)]
    await joined(sharing, 7)
    async with sharing.database() as database:
        route = Route(legs=(Leg(backend="provider", upstream="gpt-6-luna"),))
        await set_route(database, "later", route, actor="test", backends={"provider"})
    await sharing.announce_change()
    begun = [await reader.until(HELD) for reader in readers]
    assert begun == [begun[0]] * 8
    await double.release()
    whole = [await reader.end() for reader in readers]
    assert whole == [whole[0]] * 8
    assert whole[0][-1] == DONE
    assert await calls(double) == 1


async def test_a_leader_whose_client_hangs_up_streams_on_for_the_others(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    follower = Reader(http, body())
    assert await follower.until(HELD) == begun
    await leader.hang_up()
    await Requests(http).until(leader.identifier, "cancelled")
    late_one = Reader(http, body())
    assert await late_one.until(HELD) == begun
    await double.release()
    whole = await follower.end()
    assert await late_one.end() == whole
    assert await calls(double) == 1
    assert (whole[:HELD], whole[-1]) == (begun, DONE)
    assert len(whole) == len(await alone(http, body()))


async def test_chunks_come_on_when_the_leaders_client_is_gone(
    sharing: Stack, http: httpx.AsyncClient
) -> None:
    """Of a stream that takes minutes; when the last reader is gone, it ends."""
    pace = {"milliseconds_per_token": 20}
    content = body(model="slow", max_tokens=8000, carpool_simulate=pace)
    leader = Reader(http, content)
    await leader.until(1)
    follower = Reader(http, content)
    await follower.until(1)
    await leader.hang_up()
    await Requests(http).until(leader.identifier, "cancelled")
    read = await follower.until(max(len(leader.events), len(follower.events)) + 20)
    assert leader.events == read[: len(leader.events)]
    await follower.hang_up()
    await sharing.nothing_in_flight()
    whole = await alone(http, content | {"max_tokens": len(read), "carpool_simulate": {}})
    assert [words(event) for event in read] == [words(event) for event in whole[: len(read)]]


async def test_a_leader_that_nobody_waits_for_is_read_by_its_followers(
    http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    left = await Requests(http).leave(**body())
    await double.until_held()
    follower = Reader(http, body())
    await follower.until(HELD)
    await double.release()
    assert (await follower.end())[-1] == DONE
    assert (await Requests(http).get(left["id"], wait=30))["status"] == "completed"
    assert await calls(double) == 1


async def test_a_follower_under_an_idempotency_key_reads_along(
    http: httpx.AsyncClient, double: Double
) -> None:
    """It is stored in another way, which tells no run of it: it asks when it has waited."""
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    follower = Reader(http, body(), **{"idempotency-key": "reads-along"})
    assert await follower.until(HELD) == begun
    await double.release()
    assert await follower.end() == await leader.end()
    assert await calls(double) == 1


async def test_a_leader_that_fails_before_its_first_chunk_leaves_the_others_to_themselves(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang=True, status=400, body={"error": {"code": "once"}})
    leader = Reader(http, body())
    await double.until_held()
    followers = [Reader(http, body()) for _ in range(2)]
    await joined(sharing, 2)
    await double.release()
    await leader.end()
    assert (leader.status, leader.error) == (400, "once")
    for follower in followers:
        whole = await follower.end()
        assert (follower.status, whole[-1]) == (200, DONE)
    assert await calls(double) == 3


async def test_a_leader_that_breaks_interrupts_those_who_read_it(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """Nothing of another computation is put behind what they have, and none is begun for them."""
    await double.fault(PATH, hang_after_chunks=HELD, cut_after_chunks=CUT)
    leader = Reader(http, body())
    await leader.until(HELD)
    followers = [Reader(http, body()) for _ in range(2)]
    for follower in followers:
        await follower.until(HELD)
    await double.release()
    *read, _ = await leader.end()
    for follower in followers:
        *also_read, _ = await follower.end()
        assert also_read == read[: len(also_read)]
        assert follower.error == "stream_interrupted"
        outcome = "select outcome from results where id = $1"
        assert await sharing.value(outcome, follower.id) == Outcome.FAILED
    assert await calls(double) == 1


async def test_a_leader_that_breaks_costs_those_nothing_who_have_not_read_it(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """Its chunks were lost on the way, with Redis: they run by themselves."""
    await double.fault(PATH, hang=True, cut_after_chunks=CUT)
    leader = Reader(http, body())
    await double.until_held()
    follower = Reader(http, body())
    await joined(sharing)
    with stopped(sharing.pid("valkey")):
        await double.release()
        whole = await follower.end()
    await leader.end()
    assert leader.status == 502
    assert (follower.status, whole[-1]) == (200, DONE)
    assert len(whole) == len(await alone(http, body()))


async def test_an_attempt_that_failed_before_its_first_chunk_is_followed_by_the_next(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang=True, status=500)
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    await double.until_held()
    follower = Reader(http, body())
    await joined(sharing)
    await double.release()
    begun = await leader.until(HELD)
    assert await follower.until(HELD) == begun
    await double.release()
    assert await follower.end() == await leader.end()
    assert await calls(double) == 2


async def test_a_claim_that_is_lost_interrupts_those_who_read_it(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """The leader, which nobody has read, runs again; who comes then reads that computation."""
    await double.fault(PATH, hang_after_chunks=HELD)
    left = await Requests(http).leave(**body())
    await double.until_held()
    reader = Reader(http, body())
    begun = await reader.until(HELD)
    await double.fault(PATH, hang_after_chunks=HELD)
    await sharing.replace(WORKER, signal.SIGKILL)
    await reader.end()
    assert (reader.events[:-1], reader.error) == (begun, "stream_interrupted")
    await double.until_held()
    second = Reader(http, body())
    await second.until(HELD)
    await double.release()
    assert (await second.end())[-1] == DONE
    found = await Requests(http).get(left["id"], wait=30)
    assert (found["status"], await calls(double)) == ("completed", 2)


async def test_a_follower_that_is_cancelled_stops_and_the_leader_goes_on(
    http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    follower = Reader(http, body())
    await follower.until(HELD)
    assert (await Requests(http).cancel(follower.identifier))["status"] == "cancelled"
    await follower.end()
    assert (follower.events[:-1], follower.error) == (begun, "request_cancelled")
    await double.release()
    assert (await leader.end())[-1] == DONE


async def test_without_redis_the_rest_comes_from_postgres(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """One has read a part, one joins when nobody can be told: both have all, and nothing twice."""
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    follower = Reader(http, body())
    await follower.until(HELD)
    with stopped(sharing.pid("valkey")):
        late_one = Reader(http, body())
        await joined(sharing, 2)
        await double.release()
        whole = await leader.end()
        assert await follower.end() == whole
        assert await late_one.end() == whole
    assert (whole[:HELD], whole[-1]) == (begun, DONE)
    assert await calls(double) == 1
    assert len(whole) == len(await alone(http, body()))


async def test_redis_that_comes_back_empty_is_told_again_who_reads(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang=True, hang_after_chunks=HELD)
    leader = Reader(http, body())
    await double.until_held()
    follower = Reader(http, body())
    await joined(sharing)
    with stopped(sharing.pid("valkey")):
        late_one = Reader(http, body())
        await joined(sharing, 2)
    await killed(sharing, "valkey")
    await double.release()
    begun = await leader.until(HELD)
    for reader in (follower, late_one):
        assert await reader.until(HELD) == begun
    await double.release()
    whole = await leader.end()
    for reader in (follower, late_one):
        assert await reader.end() == whole


async def test_retries_after_the_end_of_their_api_read_along(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """One takes over the leader and one the follower; both read what was streamed meanwhile."""
    await double.fault(PATH, hang=True, hang_after_chunks=HELD)
    waiting = [Reader(http, body())]
    await double.until_held()
    waiting.append(Reader(http, body()))
    await joined(sharing)
    await sharing.replace("api", signal.SIGKILL)
    for reader in waiting:
        await reader.hang_up()
    again = [Reader(http, body(), **RETRY) for _ in range(2)]
    await double.release()
    begun = [await reader.until(HELD) for reader in again]
    assert begun[0] == begun[1]
    await double.release()
    whole = [await reader.end() for reader in again]
    assert whole[0] == whole[1]
    assert (whole[0][-1], await calls(double)) == (DONE, 1)


async def test_a_follower_at_another_api_process_reads_along(
    sharing: Stack, config: Path, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    leader = Reader(http, body())
    begun = await leader.until(HELD)
    async with another_api(sharing, config, http) as other:
        follower = Reader(other, body())
        assert await follower.until(HELD) == begun
        await double.release()
        assert await follower.end() == await leader.end()
    assert await calls(double) == 1


async def test_a_leader_whose_api_ends_in_order_streams_on_for_the_others(
    sharing: Stack, config: Path, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang_after_chunks=HELD)
    async with another_api(sharing, config, http) as other:
        leader = Reader(other, body())
        begun = await leader.until(HELD)
        follower = Reader(http, body())
        assert await follower.until(HELD) == begun
    await leader.hang_up()
    ended = await Requests(http).until(leader.identifier, "failed")
    assert ended["error"]["code"] == "stream_interrupted"
    await double.release()
    whole = await follower.end()
    assert (whole[:HELD], whole[-1]) == (begun, DONE)
    assert await calls(double) == 1
