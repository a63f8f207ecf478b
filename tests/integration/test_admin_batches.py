"""Admins see and steer the batches of all teams, which stay those of their teams."""

import pytest

from carpool.ids import new_id, public_id
from db.keys import NewKey
from tests.admin import Admin
from tests.batches import Batches, lines
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

HOSTILE = "<script>alert(1)</script>\0\u202e"
SLOW = {"carpool_simulate": {"milliseconds_per_token": 60_000}}
FAILING = {"carpool_simulate": {"status": 422}}


async def test_a_batch_is_its_teams_object_with_its_team(
    admin: Admin, batches: Batches, name: str
) -> None:
    ended = await batches.run(lines(3))
    found = await admin.get(f"/batches/{ended['id']}")
    assert found == ended | {"team": name, "lines_per_second": None, "eta_seconds": None}


async def test_a_running_batch_tells_its_pace_and_when_it_ends(
    admin: Admin, batches: Batches
) -> None:
    """No line has ended: no pace, and nobody knows. One has: both are known."""
    running = await batches.create(lines(2, body=SLOW))
    await batches.until(running["id"], "in_progress")
    found = await admin.get(f"/batches/{running['id']}")
    assert (found["lines_per_second"], found["eta_seconds"]) == (0, None)
    [first, *_] = await eventually(lambda: admin.ids("/requests", batch=running["id"]))
    await admin.ask("DELETE", f"/requests/{first}")
    found = await admin.get(f"/batches/{running['id']}")
    assert found["lines_per_second"] > 0
    assert found["eta_seconds"] > 0
    cancelled = await admin.ask("POST", f"/batches/{running['id']}/cancel")
    assert cancelled["status"] in ("cancelling", "cancelled")
    assert (await batches.ended(running["id"]))["status"] == "cancelled"
    assert (await admin.ask("POST", f"/batches/{running['id']}/cancel"))["status"] == "cancelled"


async def test_what_has_ended_is_not_cancelled_and_what_runs_not_retried(
    admin: Admin, batches: Batches
) -> None:
    ended = await batches.run(lines(1))
    found = await admin.ask("POST", f"/batches/{ended['id']}/cancel", expected=409)
    assert found["error"]["message"] == "Cannot cancel a batch with status 'completed'."
    running = await batches.create(lines(1, body=SLOW))
    await admin.ask("POST", f"/batches/{running['id']}/retry", expected=409)
    await admin.ask("POST", f"/batches/{running['id']}/cancel")
    await batches.ended(running["id"])


async def test_batches_are_listed_by_team_and_status(
    stack: Stack, admin: Admin, batches: Batches, name: str
) -> None:
    done = [(await batches.run(lines(1)))["id"] for _ in range(3)]
    failed = (await batches.run(lines(1, url="/v1/embeddings")))["id"]
    running = (await batches.create(lines(1, body=SLOW)))["id"]
    await batches.until(running, "in_progress")
    other = await stack.new_key(f"not {name}")
    async with stack.http(other.secret) as http:
        theirs = (await Batches(http).run(lines(1)))["id"]

    assert await admin.ids("/batches", team=name, limit=2) == [running, failed, *reversed(done)]
    assert await admin.ids("/batches", team=name, status="completed") == [*reversed(done)]
    assert await admin.ids("/batches", team=name, status="failed") == [failed]
    assert await admin.ids("/batches", team=name, status="in_progress") == [running]
    assert [
        found for found in await admin.ids("/batches", status="in_progress") if found == running
    ] == [running]
    everything = await admin.ids("/batches", limit=100)
    assert [found for found in everything if found in (*done, failed, running, theirs)] == [
        theirs,
        running,
        failed,
        *reversed(done),
    ]
    await batches.cancel(running)
    await batches.ended(running)


async def test_a_dry_run_is_no_batch(admin: Admin, batches: Batches, name: str) -> None:
    file = await batches.upload(lines(1))
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    await batches.ask("POST", "/batches", params={"dry_run": "true"}, json=body)
    assert await admin.all("/batches", team=name) == []


async def test_failed_lines_are_told_with_their_errors(admin: Admin, batches: Batches) -> None:
    """In the file's order, page by page; hostile names stay text."""
    items = lines(4) + lines(2, body=FAILING)
    for place, item in enumerate(items):
        item["custom_id"] = f"{HOSTILE}{place}"
    ended = await batches.run(items)
    found = await admin.all(f"/batches/{ended['id']}/failures", limit=1)
    assert [(failed["custom_id"], failed["line"]) for failed in found] == [
        (f"{HOSTILE}4", 5),
        (f"{HOSTILE}5", 6),
    ]
    for line in found:
        assert (line["status_code"], line["code"]) == (422, "simulated")
        assert line["message"]
        assert set(line) == {"id", "custom_id", "line", "status_code", "code", "message"}
        assert (await admin.get(f"/requests/{line['id']}"))["batch"] == ended["id"]
    clean = await batches.run(lines(1))
    assert await admin.all(f"/batches/{clean['id']}/failures") == []


async def test_cancelled_lines_are_among_the_failed(admin: Admin, batches: Batches) -> None:
    running = await batches.create(lines(3, body=SLOW))

    async def queued() -> bool:
        return len(await admin.ids("/requests", batch=running["id"])) == 3

    await eventually(queued)
    await admin.ask("POST", f"/batches/{running['id']}/cancel")
    await batches.ended(running["id"])
    found = await admin.all(f"/batches/{running['id']}/failures")
    assert [failed["code"] for failed in found] == ["batch_cancelled"] * 3


async def test_a_retry_is_of_the_team_that_the_batch_is_of(
    stack: Stack, admin: Admin, batches: Batches, team: NewKey, name: str
) -> None:
    once = {"carpool_simulate": {"status": 422}}
    ended = await batches.run(
        lines(2) + [line | {"custom_id": "x"} for line in lines(1, body=once)]
    )
    made = await admin.ask("POST", f"/batches/{ended['id']}/retry")
    assert made["team"] == name
    seen = await batches.ended(made["id"])
    assert seen["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    rows = await stack.fetch(
        "select b.key_id, f.key_id as by, f.team_id = b.team_id as same "
        "from batches b join files f on f.id = b.input_file where b.id = $1",
        made["id"].removeprefix("batch_"),
    )
    assert [tuple(row) for row in rows] == [(team.id, team.id, True)]


async def test_files_are_for_those_who_may_see_bodies(
    admin: Admin, reader: Admin, batches: Batches
) -> None:
    ended = await batches.run(
        lines(1) + [line | {"custom_id": "x"} for line in lines(1, body=FAILING)]
    )
    for kind in ("output", "error"):
        path = f"/batches/{ended['id']}/{kind}"
        assert (await admin.ask("GET", path, expected=403))["error"][
            "code"
        ] == "insufficient_permissions"
        answer = await reader.send("GET", path)
        assert answer.headers["content-disposition"].startswith("attachment;")
        own = await batches.http.get(f"/files/{ended[f'{kind}_file_id']}/content")
        assert answer.content == own.content
        assert answer.content.count(b"\n") == 1
    clean = await batches.run(lines(1))
    await reader.ask("GET", f"/batches/{clean['id']}/error", expected=404)


async def test_an_unknown_batch_is_not_found(admin: Admin, reader: Admin) -> None:
    for identifier in (public_id("batch_", new_id()), "batch_1", "é"):
        for method, path in (
            ("GET", ""),
            ("GET", "/failures"),
            ("POST", "/cancel"),
            ("POST", "/retry"),
            ("GET", "/output"),
            ("GET", "/error"),
        ):
            await reader.ask(method, f"/batches/{identifier}{path}", expected=404)


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"status": "done"}, 400, "status"),
        ({"limit": "0"}, 400, "limit"),
        ({"team": "nobody at all"}, 404, "team"),
        ({"after": "nothing"}, 404, None),
    ],
    ids=str,
)
async def test_a_condition_that_is_none_is_refused(
    admin: Admin, query: dict[str, str], status: int, param: str | None
) -> None:
    found = await admin.ask("GET", "/batches", query, expected=status)
    assert found["error"]["param"] == param


async def test_it_is_for_admins_alone(stack: Stack, batches: Batches) -> None:
    ended = await batches.run(lines(1))
    team = Admin(batches.http, stack.root_url)
    for method, path in (
        ("GET", ""),
        ("GET", f"/{ended['id']}"),
        ("GET", f"/{ended['id']}/failures"),
        ("POST", f"/{ended['id']}/cancel"),
        ("POST", f"/{ended['id']}/retry"),
        ("GET", f"/{ended['id']}/output"),
    ):
        await team.ask(method, f"/batches{path}", expected=403)
