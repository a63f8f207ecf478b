"""No route of the admin API opens to anybody else, and none fails on what it is given."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.routing import Route

from api.app import ROUTES
from db.keys import NewKey, create_key
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("quiet")
LOGIN = "/admin/v1/session"
SAFE = ("GET", "HEAD")


def doors() -> list[tuple[str, str]]:
    """Each method and address of the admin API, but for the login."""
    return [
        (method, route.path.replace("{id}", "x").replace("{model:path}", "x/y"))
        for route in ROUTES
        if isinstance(route, Route) and route.path.startswith("/admin/")
        for method in sorted(route.methods or ())
        if (method, route.path) != ("POST", LOGIN)
    ]


@pytest.fixture
async def anybody(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies and knows no key."""
    async with httpx.AsyncClient(base_url=stack.root_url, timeout=30) as client:
        yield client


@pytest.fixture
async def admin_key(stack: Stack, request: pytest.FixtureRequest) -> NewKey:
    """An admin's key of this test alone, without the scope for bodies."""
    async with stack.database() as database:
        return await create_key(database, team=request.node.nodeid, name="ops", admin=True)


async def test_every_route_is_shut_to_all_but_admins(
    anybody: httpx.AsyncClient, team: NewKey
) -> None:
    """No key, an unknown one, a team's, a forged cookie."""
    for headers, status in (
        ({}, 401),
        ({"authorization": "Bearer sk-carpool-unknown"}, 401),
        ({"authorization": f"Bearer {team.secret}"}, 403),
        ({"cookie": "carpool_session=forged"}, 401),
        ({"cookie": "carpool_session=forged", "authorization": "Bearer \xff"}, 401),
    ):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        for method, path in doors():
            expected = 401 if path == LOGIN else status
            answer = await anybody.request(method, path, headers=raw)
            assert answer.status_code == expected, (method, path, headers)


async def test_every_change_by_a_cookie_needs_its_token(
    anybody: httpx.AsyncClient, admin_key: NewKey
) -> None:
    assert (await anybody.post(LOGIN, json={"key": admin_key.secret})).is_success
    changes = [door for door in doors() if door[0] not in SAFE]
    assert len(changes) > 10
    for method, path in changes:
        answer = await anybody.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf"), path


@pytest.mark.parametrize(
    "value", ["", "-1", "9" * 5000, "\0", "²", "é" * 3000, "'; --", "req_" + "f" * 32, "1e309"]
)
async def test_no_parameter_is_a_failure_of_the_server(
    anybody: httpx.AsyncClient, admin_key: NewKey, value: str
) -> None:
    names = ("limit", "after", "team", "status", "model", "batch", "window", "by", "since", "until")
    headers = {"authorization": f"Bearer {admin_key.secret}"}
    for path in ("requests", "batches", "depths", "activity", "savings", "route_changes", "routes"):
        for name in names:
            answer = await anybody.get(f"/admin/v1/{path}", params={name: value}, headers=headers)
            assert answer.status_code in (200, 400, 404), (path, name, answer.text)


async def test_a_head_of_the_events_is_told_and_does_not_watch(
    anybody: httpx.AsyncClient, admin_key: NewKey
) -> None:
    headers = {"authorization": f"Bearer {admin_key.secret}"}
    answer = await anybody.head("/admin/v1/events", headers=headers)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
