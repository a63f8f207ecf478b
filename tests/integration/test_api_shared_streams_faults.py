"""What a shared stream comes to where its leader, a worker, the API or Redis fails."""

import signal
from pathlib import Path

import httpx

from carpool.states import Outcome
from tests.clients import Requests
from tests.double.launch import Double
from tests.faults.processes import killed, stopped
from tests.integration.shared_streams import (
    DONE,
    HELD,
    PATH,
    Reader,
    alone,
    another_api,
    body,
    calls,
    joined,
)
from tests.stack import Stack

pytest_plugins = ("tests.integration.sharing_fixtures",)
RETRY = {"x-stainless-retry-count": "1"}
WORKER = "worker provider-1"
CUT = 5
"""How many it sends of an answer that breaks."""


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
