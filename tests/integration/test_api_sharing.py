"""Identical requests cost one computation, and a kept answer none; nobody gets another's."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from carpool.routing import Leg, Route
from db.keys import NewKey
from db.routes import set_route
from tests.batches import Batches, line
from tests.clients import CHAT
from tests.double.launch import Double
from tests.stack import Json, Stack, eventually

pytest_plugins = ("tests.integration.sharing_fixtures",)
PATH = "/v1/chat/completions"
MANY = 32
FOLLOWING = "select count(*) from queue where leader is not null"


def body(**fields: Any) -> Json:
    return CHAT | {"model": "house", "temperature": 0} | fields


async def ask(http: httpx.AsyncClient, content: Json, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post("/chat/completions", json=content, headers=names)


async def calls(double: Double) -> int:
    return len((await double.seen()).of(PATH))


async def shared(
    sharing: Stack, http: httpx.AsyncClient, double: Double, number: int, content: Json, **how: str
) -> list[httpx.Response]:
    """What so many get that ask the same while the first call, which a fault holds, is computed."""
    asking = [asyncio.create_task(ask(http, content, **how)) for _ in range(number)]

    async def follow() -> bool:
        return bool(await sharing.value(FOLLOWING) == number - 1)

    await double.until_held()
    await eventually(follow)
    await double.release()
    return await asyncio.gather(*asking)


@pytest.mark.parametrize("stream", [False, True])
async def test_many_at_once_are_one_call(
    sharing: Stack, key: NewKey, http: httpx.AsyncClient, double: Double, stream: bool
) -> None:
    await double.fault(PATH, hang=True)
    content = body(stream=stream, stream_options={"include_usage": True} if stream else None)
    answers = await shared(sharing, http, double, MANY, content)
    assert {answer.status_code for answer in answers} == {200}
    assert await calls(double) == 1
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == MANY
    assert {answer.headers["x-carpool-backend"] for answer in answers} == {"provider"}
    [row] = await sharing.fetch(
        "select count(*) as n, count(*) filter (where paid > 0) as paying, "
        "sum(saved_shared) as saved, max(paid) as paid from results r join keys k using (team_id) "
        "where k.id = $1",
        key.id,
    )
    assert (row["n"], row["paying"], row["saved"]) == (MANY, 1, (MANY - 1) * row["paid"])


@pytest.mark.parametrize(
    "content",
    [
        body(temperature=1),
        body(temperature=None),
        body(n=2),
    ],
    ids=["temperature", "default", "n"],
)
async def test_what_may_differ_is_shared_only_where_the_caller_asks(
    sharing: Stack, http: httpx.AsyncClient, double: Double, content: Json
) -> None:
    await double.fault(PATH, hang=True, times=5)
    asking = [asyncio.create_task(ask(http, content)) for _ in range(4)]
    await double.until_held(4)
    await double.release()
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}
    assert await calls(double) == 4
    await shared(sharing, http, double, 4, content, x_carpool_share="true")
    assert await calls(double) == 5


async def test_equal_lines_of_a_batch_are_computed_once(
    sharing: Stack, key: NewKey, http: httpx.AsyncClient, double: Double
) -> None:
    """Where they are deterministic and wait together; each has its own line in the output."""
    batches = Batches(http)
    equal = {"model": "later", "temperature": 0, "messages": CHAT["messages"]}
    content = [
        *(line(f"same{n}", body=equal) for n in range(2500)),
        *(line(f"free{n}", body=equal | {"temperature": 1}) for n in range(3)),
        line("other", body=equal | {"max_tokens": 7}),
    ]
    created = await batches.create(content)

    async def queued() -> bool:
        return bool(
            await sharing.value("select count(*) from queue where model = 'later'") == len(content)
        )

    await eventually(queued)
    async with sharing.database() as database:
        route = Route(legs=(Leg(backend="provider", upstream="gpt-6-luna"),))
        await set_route(database, "later", route, actor="test", backends={"provider"})
    await sharing.announce_change()
    batch = await batches.ended(created["id"])
    output, _ = await batches.proven(batch, [item["custom_id"] for item in content])
    assert batch["request_counts"] == {"total": 2504, "completed": 2504, "failed": 0}
    same = [
        item["response"]["body"]["choices"]
        for item in output
        if item["custom_id"].startswith("same")
    ]
    assert all(choices == same[0] for choices in same)
    assert await calls(double) == 5
    [row] = await sharing.fetch(
        "select count(*) filter (where saved_shared > 0) as sharing, sum(paid) as paid "
        "from results r join keys k using (team_id) where k.id = $1",
        key.id,
    )
    assert row["sharing"] == 2499
    assert row["paid"] > 0


async def test_no_store_shares_nothing(http: httpx.AsyncClient, double: Double) -> None:
    await double.fault(PATH, hang=True, times=3)
    asking = [asyncio.create_task(ask(http, body(), cache_control="no-store")) for _ in range(3)]
    await double.until_held(3)
    await double.release()
    await asyncio.gather(*asking)
    assert await calls(double) == 3
    kept = body(model="kept")
    assert (await ask(http, kept, cache_control="no-store")).status_code == 200
    assert (await ask(http, kept)).headers["cache-status"] == "carpool; fwd=miss"


async def test_teams_share_nothing(sharing: Stack, http: httpx.AsyncClient, double: Double) -> None:
    other = await sharing.new_key("another team")
    await double.fault(PATH, hang=True, times=2)
    async with sharing.http(other.secret) as theirs:
        asking = [asyncio.create_task(ask(client, body())) for client in (http, theirs)]
        await double.until_held(2)
        await double.release()
        await asyncio.gather(*asking)
        assert await calls(double) == 2
        await ask(http, body(model="kept", user="secret"))
        answer = await ask(theirs, body(model="kept", user="secret"))
    assert answer.headers["cache-status"] == "carpool; fwd=miss"


async def test_a_failed_leader_fails_none_of_its_followers(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang=True, status=400, body={"error": {"message": "once"}})
    answers = await shared(sharing, http, double, 4, body(user="fails"))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 400]


async def test_a_leader_that_is_cancelled_leaves_its_work_to_the_others(
    http: httpx.AsyncClient, double: Double
) -> None:
    await double.fault(PATH, hang=True)
    content = body(user="cancelled")
    leader = (await ask(http, content, prefer="respond-async")).json()["id"]
    await double.until_held()
    follower = asyncio.create_task(ask(http, content))

    async def follows() -> bool:
        listed = (await http.get("/requests", params={"status": "queued"})).json()["data"]
        return len(listed) == 1

    await eventually(follows)
    cancelled = (await http.delete(f"/requests/{leader}")).json()
    assert cancelled["status"] == "cancelled"
    await double.release()
    assert (await follower).status_code == 200
    assert await calls(double) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_answer_is_given_again(
    sharing: Stack, http: httpx.AsyncClient, double: Double, stream: bool
) -> None:
    content = body(model="kept", stream=stream)
    first = await ask(http, content)
    assert first.headers["cache-status"] == "carpool; fwd=miss"
    assert "age" not in first.headers
    second = await ask(http, content)
    assert second.headers["cache-status"] == "carpool; hit"
    assert 0 <= int(second.headers["age"]) < 30
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert await calls(double) == 1
    identifier = second.headers["x-request-id"]
    found = (await http.get(f"/requests/{identifier}")).json()
    assert (found["status"], found["attempts"]) == ("completed", 0)
    row = "select paid, saved_cache from results where id = $1"
    [[paid, saved]] = await sharing.fetch(row, identifier.removeprefix("req_"))
    assert paid == 0
    assert saved > 0


async def test_what_the_caller_says_of_age_holds(http: httpx.AsyncClient, double: Double) -> None:
    content = body(model="kept", user="age")
    await ask(http, content)
    for value, status in (
        ("no-cache", "carpool; fwd=request"),
        ("max-age=0", "carpool; fwd=request"),
        ("max-age=soon", "carpool; fwd=request"),
        ("max-age=60", "carpool; hit"),
        ("", "carpool; hit"),
    ):
        answer = await ask(http, content, cache_control=value)
        assert answer.headers["cache-status"] == status, value
    assert await calls(double) == 4


async def test_without_a_time_in_the_route_nothing_is_kept(
    http: httpx.AsyncClient, double: Double
) -> None:
    for _ in range(2):
        assert "cache-status" not in (await ask(http, body(user="not kept"))).headers
    assert await calls(double) == 2


async def test_an_answer_is_kept_for_its_time(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    content = body(model="kept", user="time")
    identifier = (await ask(http, content)).headers["x-request-id"].removeprefix("req_")
    await sharing.fetch(
        "update results set completed_at = now() - interval '11 minutes' where id = $1::uuid",
        identifier,
    )
    assert (await ask(http, content)).headers["cache-status"] == "carpool; fwd=miss"


async def test_an_answer_that_failed_is_not_kept(http: httpx.AsyncClient, double: Double) -> None:
    content = body(model="kept", user="failed")
    await double.fault(PATH, status=422, body={"error": {"message": "no"}})
    assert (await ask(http, content)).status_code == 422
    answer = await ask(http, content)
    assert (answer.status_code, answer.headers["cache-status"]) == (200, "carpool; fwd=miss")


async def test_hits_do_not_lengthen_the_time(
    sharing: Stack, http: httpx.AsyncClient, double: Double
) -> None:
    """A hit is no new answer: its age is that of the computation."""
    content = body(model="kept", user="lengthen")
    identifier = (await ask(http, content)).headers["x-request-id"].removeprefix("req_")
    began = time.monotonic()
    await sharing.fetch(
        "update results set completed_at = now() - interval '9 minutes' where id = $1::uuid",
        identifier,
    )
    for _ in range(2):
        answer = await ask(http, content)
        assert answer.headers["cache-status"] == "carpool; hit"
        assert 540 <= int(answer.headers["age"]) <= 541 + time.monotonic() - began
