"""Admins see the requests of all teams: found by their conditions, each with its whole story."""

import pytest

from carpool.ids import new_id, public_id
from db.keys import NewKey
from tests.admin import Admin
from tests.batches import Batches, lines
from tests.clients import CHAT, FOREVER, Requests
from tests.stack import MODEL, Json, Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

HOSTILE = "<img src=x onerror=alert(1)>\u202e\"';--"


def story(found: Json) -> list[Json]:
    """A request's timeline without what its client was told, which has its own pace."""
    return [e for e in found["timeline"] if e["event"] not in ("accepted", "delivered")]


async def test_a_request_shows_whose_it_is_and_what_happened(
    admin: Admin, requests: Requests, name: str
) -> None:
    left = await requests.leave()
    await requests.get(left["id"], wait=30)
    found = await admin.get(f"/requests/{left['id']}")
    assert (found["team"], found["class"], found["person"]) == (name, "interactive", None)
    assert (found["status"], found["batch"], found["custom_id"]) == ("completed", None, None)
    assert found["waits"] is None
    received, claimed, completed = story(found)
    assert received["event"] == "received"
    assert (claimed["event"], completed["event"]) == ("claimed", "completed")
    assert received["at"] <= claimed["at"] <= completed["at"]
    assert claimed["text"] == "Claimed by 'simulated'."
    assert completed["text"] == "Answered by 'simulated' as 'simulated'."
    for event in (claimed, completed):
        assert (event["backend"], event["epoch"], event["error"]) == ("simulated", 1, None)
        assert event["run"].startswith("run_")
        assert event["worker"]
    assert (received["backend"], received["run"], received["epoch"]) == (None, None, None)


async def test_a_stream_tells_its_first_token_and_its_delivery(
    stack: Stack, admin: Admin, team: NewKey, requests: Requests
) -> None:
    async with stack.async_client(api_key=team.secret) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        async for _ in stream:
            pass
    [identifier] = await requests.ids()

    async def told() -> list[str] | None:
        found = [
            event["event"] for event in (await admin.get(f"/requests/{identifier}"))["timeline"]
        ]
        return found if "delivered" in found else None

    assert await eventually(told) == [
        "received",
        "claimed",
        "first_token",
        "completed",
        "delivered",
    ]


async def test_failed_attempts_and_the_last_error_are_told(
    admin: Admin, requests: Requests
) -> None:
    knobs = {"status": 503, "times": 1, "retry_after_seconds": 0.01}
    left = await requests.leave(carpool_simulate=knobs)
    await requests.get(left["id"], wait=30)
    events = story(await admin.get(f"/requests/{left['id']}"))
    assert [event["event"] for event in events] == [
        "received",
        "claimed",
        "failed_attempt",
        "claimed",
        "completed",
    ]
    assert [event["epoch"] for event in events] == [None, 1, 1, 2, 2]
    assert events[2]["error"]
    left = await requests.leave(carpool_simulate={"status": 422})
    await requests.get(left["id"], wait=30)
    found = await admin.get(f"/requests/{left['id']}")
    assert found["status"] == "failed"
    assert story(found)[-1]["event"] == "failed"
    assert story(found)[-1]["error"].startswith("simulated: ")


async def test_bodies_are_for_those_who_may_see_them(
    admin: Admin, reader: Admin, requests: Requests
) -> None:
    left = await requests.leave(messages=[{"role": "user", "content": HOSTILE}])
    ended = await requests.get(left["id"], wait=30)
    hidden = await admin.get(f"/requests/{left['id']}")
    assert hidden["hidden"] == ["body", "response"]
    assert not hidden.keys() & {"body", "response", "error"}
    assert HOSTILE not in str(hidden)
    shown = await reader.get(f"/requests/{left['id']}")
    assert shown["body"]["messages"] == [{"role": "user", "content": HOSTILE}]
    assert (shown["response"], shown["error"]) == (ended["response"], None)
    assert "hidden" not in shown
    listed = await reader.get("/requests", limit=1)
    assert not listed["data"][0].keys() & {"body", "response", "error", "timeline", "waits"}


async def test_text_of_teams_and_people_stays_text(stack: Stack, admin: Admin) -> None:
    key = await stack.new_key(HOSTILE, owner=HOSTILE)
    async with stack.http(key.secret) as http:
        left = await Requests(http).leave()
    found = await admin.get(f"/requests/{left['id']}")
    assert (found["team"], found["person"]) == (HOSTILE, HOSTILE)
    assert left["id"] in await admin.ids("/requests", team=HOSTILE)


async def test_why_a_request_waits_and_its_place(
    admin: Admin, requests: Requests, parked: str
) -> None:
    """Told to its own team, too, where it is asked for by itself."""
    left = await requests.leave(model=parked)
    waits = (await admin.get(f"/requests/{left['id']}"))["waits"]
    assert waits["reason"] == "no_live_backend"
    assert waits["text"] == "No backend that may answer it is up ('nowhere')."
    assert waits["place"] >= 1
    assert waits["eta_seconds"] is None
    assert (await requests.get(left["id"]))["waits"] == waits
    assert "waits" not in left
    assert "waits" not in (await requests.page())["data"][0]
    assert "waits" not in await requests.cancel(left["id"])
    assert "waits" not in await requests.get(left["id"])
    assert (await admin.get(f"/requests/{left['id']}"))["waits"] is None


async def test_an_id_in_any_form_that_it_is_told_in(
    stack: Stack, admin: Admin, requests: Requests, team: NewKey
) -> None:
    left = await requests.leave()
    bare = left["id"].removeprefix("req_")
    dashed = f"{bare[:8]}-{bare[8:12]}-{bare[12:16]}-{bare[16:20]}-{bare[20:]}"
    for form in (bare, dashed, f"batch_req_{bare}", left["id"].upper()):
        assert (await admin.get(f"/requests/{form}"))["id"] == left["id"]
    async with stack.http(team.secret) as http:
        batches = Batches(http)
        ended = await batches.run(lines(2))
        output, _ = await batches.proven(ended, ["r0", "r1"])
    found = await admin.get(f"/requests/{output[0]['id']}")
    assert (found["batch"], found["custom_id"]) == (ended["id"], output[0]["custom_id"])
    assert found["class"] == "batch"
    assert found["timeline"][0]["text"].startswith("Line ")
    assert found["timeline"][0]["text"].endswith(f" of {ended['id']}.")


@pytest.mark.parametrize(
    "identifier",
    [public_id("req_", new_id()), "req_", "req_1", "nonsense", "req_" + "z" * 32, "é", "%00"],
    ids=range(7),
)
async def test_an_unknown_id_is_not_found(admin: Admin, identifier: str) -> None:
    for method in ("GET", "DELETE"):
        found = await admin.ask(method, f"/requests/{identifier}", expected=404)
        assert found["error"]["code"] == "not_found"


async def test_a_request_is_found_by_each_of_its_conditions(
    stack: Stack, admin: Admin, requests: Requests, team: NewKey, name: str, parked: str
) -> None:
    done = [await requests.leave() for _ in range(3)]
    for left in done:
        await requests.get(left["id"], wait=30)
    failed = await requests.leave(carpool_simulate={"status": 422})
    await requests.get(failed["id"], wait=30)
    running = await requests.leave(**FOREVER)
    await requests.until(running["id"], "in_progress")
    queued = [await requests.leave(model=parked) for _ in range(3)]
    cancelled = await requests.leave(model=parked)
    await requests.cancel(cancelled["id"])

    def ids(*found: Json) -> list[str]:
        return [item["id"] for item in reversed(found)]

    everything = ids(*done, failed, running, *queued, cancelled)
    assert await admin.ids("/requests", team=name, limit=2) == everything
    assert await admin.ids("/requests", team=name, model=parked) == ids(*queued, cancelled)
    for status, found in {
        "completed": ids(*done),
        "failed": ids(failed),
        "in_progress": ids(running),
        "queued": ids(*queued),
        "cancelled": ids(cancelled),
        "expired": [],
    }.items():
        assert await admin.ids("/requests", team=name, status=status, limit=2) == found
        everywhere = await admin.ids("/requests", status=status, limit=100)
        assert [item for item in everywhere if item in everything] == found
        assert len(set(everywhere)) == len(everywhere)
        own = await admin.ids("/requests", team=name, status=status, model=MODEL)
        assert own == [item for item in found if item in ids(*done, failed, running)]
        of_model = await admin.ids("/requests", status=status, model=parked)
        assert [item for item in of_model if item in everything] == [
            item for item in found if item in ids(*queued, cancelled)
        ]
    await requests.cancel(running["id"])


async def test_the_lines_of_a_batch_are_found_by_it(
    stack: Stack, admin: Admin, team: NewKey, name: str
) -> None:
    items = lines(5)
    items[2]["body"]["carpool_simulate"] = {"status": 422}
    async with stack.http(team.secret) as http:
        batch = (await Batches(http).run(items))["id"]
    found = await admin.ids("/requests", batch=batch, limit=2)
    assert len(found) == 5
    assert await admin.ids("/requests", batch=batch, team=name) == found
    assert await admin.ids("/requests", batch=batch, status="failed") == [found[2]]
    assert (
        await admin.ids("/requests", batch=batch, status="completed", limit=3)
        == found[:2] + found[3:]
    )
    assert await admin.ids("/requests", batch=batch, status="queued") == []
    assert await admin.ids("/requests", batch=batch, team="admins") == []
    assert await admin.ids("/requests", batch=public_id("batch_", new_id())) == []


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"status": "done"}, 400, "status"),
        ({"limit": "0"}, 400, "limit"),
        ({"limit": "101"}, 400, "limit"),
        ({"model": "\0"}, 400, "model"),
        ({"team": "\0"}, 400, "team"),
        ({"team": "nobody at all"}, 404, "team"),
        ({"after": "nothing"}, 404, "id"),
        ({"batch": "nothing"}, 404, None),
    ],
    ids=str,
)
async def test_a_condition_that_is_none_is_refused(
    admin: Admin, query: dict[str, str], status: int, param: str | None
) -> None:
    found = await admin.ask("GET", "/requests", query, expected=status)
    assert found["error"]["param"] == param


async def test_an_admin_cancels_any_teams_request(
    admin: Admin, requests: Requests, parked: str
) -> None:
    left = await requests.leave(model=parked)
    cancelled = await admin.ask("DELETE", f"/requests/{left['id']}")
    assert (cancelled["status"], cancelled["waits"]) == ("cancelled", None)
    assert [event["event"] for event in story(cancelled)] == ["received", "cancelled"]
    assert (await requests.get(left["id"]))["error"]["code"] == "request_cancelled"
    again = await admin.ask("DELETE", f"/requests/{left['id']}")
    assert story(again) == story(cancelled)


async def test_it_is_for_admins_alone(stack: Stack, requests: Requests) -> None:
    left = await requests.leave()
    for path in ("/requests", f"/requests/{left['id']}"):
        await Admin(requests.http, stack.root_url).ask("GET", path, expected=403)
    async with stack.http("sk-carpool-nonsense") as http:
        await Admin(http, stack.root_url).ask("GET", "/requests", expected=401)
