"""A team's requests are listed newest first, by status and model, page by page to the end."""

from typing import Any

import pytest

from db.keys import NewKey
from tests.clients import FOREVER, Requests
from tests.integration.test_api_requests import check
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("quiet")


async def test_a_list_is_paged_to_its_end(requests: Requests) -> None:
    ids = [(await requests.leave())["id"] for _ in range(5)]
    newest_first = ids[::-1]
    assert await requests.ids() == newest_first
    found, sizes = [], []
    query: dict[str, Any] = {"limit": 2}
    more = True
    while more:
        page = await requests.page(**query)
        part = [item["id"] for item in page["data"]]
        assert (page["first_id"], page["last_id"]) == (part[0], part[-1])
        found += part
        sizes.append(len(part))
        more = page["has_more"]
        query["after"] = page["last_id"]
    assert (found, sizes) == (newest_first, [2, 2, 1])
    assert await requests.page(after=ids[0]) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_a_page_that_ends_the_list_has_no_more(requests: Requests) -> None:
    for _ in range(2):
        await requests.leave()
    assert (await requests.page(limit=2))["has_more"] is False


async def test_a_list_by_status_and_model(requests: Requests, parked: str) -> None:
    waiting = (await requests.leave(model=parked))["id"]
    ended = (await requests.leave(model=parked))["id"]
    await requests.cancel(ended)
    completed = (await requests.leave())["id"]
    failed = (await requests.leave(carpool_simulate={"status": 422}))["id"]
    for identifier in (completed, failed):
        await requests.get(identifier, wait=30)
    running = (await requests.leave(**FOREVER))["id"]
    await requests.until(running, "in_progress")
    for status, expected in (
        ("queued", waiting),
        ("in_progress", running),
        ("completed", completed),
        ("failed", failed),
        ("cancelled", ended),
    ):
        [found] = (await requests.page(status=status))["data"]
        check(found)
        assert (found["id"], found["status"]) == (expected, status)
    assert await requests.ids(status="expired") == []
    assert await requests.ids(model=parked) == [ended, waiting]
    assert await requests.ids(model=parked, status="cancelled", limit=1) == [ended]
    assert await requests.ids(model="nowhere") == []
    for identifier in (waiting, running):
        await requests.cancel(identifier)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "lost"),
        ("status", ""),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "many"),
        ("limit", "9" * 5000),
        ("model", "a\0b"),
    ],
    ids=range(8),
)
async def test_a_bound_that_is_none_is_refused(requests: Requests, name: str, value: str) -> None:
    answer = await requests.http.get("/requests", params={name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


async def test_a_cursor_that_is_none_is_not_found(requests: Requests) -> None:
    answer = await requests.http.get("/requests", params={"after": "req_1"})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("model", ["nowhere", "%ff%fe", "%ed%a0%80"])
async def test_a_model_that_cannot_be_has_no_requests(requests: Requests, model: str) -> None:
    await requests.leave()
    answer = await requests.http.get(f"/requests?model={model}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == []


async def test_a_cursor_of_another_team_is_only_a_moment(
    stack: Stack, requests: Requests, strangers: NewKey
) -> None:
    mine = (await requests.leave())["id"]
    async with stack.http(strangers.secret) as http:
        theirs = (await Requests(http).leave())["id"]
    assert await requests.ids(after=theirs) == [mine]
