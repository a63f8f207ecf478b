"""Who follows a stream reads its chunks as they come: each once, in order, of one computation."""

import httpx

from carpool.routing import Leg, Route
from db.keys import NewKey
from db.routes import set_route
from tests.clients import CHAT, Requests
from tests.double.launch import Double
from tests.integration.shared_streams import (
    DONE,
    HELD,
    PATH,
    Reader,
    alone,
    body,
    calls,
    joined,
    words,
)
from tests.stack import Json, Stack, eventually

pytest_plugins = ("tests.integration.sharing_fixtures",)


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
