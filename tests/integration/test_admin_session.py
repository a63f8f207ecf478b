"""A session is an admin's key in a browser: it is not forged, and does not outlive its key."""

from collections.abc import AsyncIterator

import httpx
import pytest

from db.keys import NewKey, create_key, hash_of, revoke_key
from tests.clients import CHAT
from tests.stack import Json, Stack

pytestmark = pytest.mark.usefixtures("quiet")
PATH = "/admin/v1/session"


@pytest.fixture
async def admin_key(stack: Stack, request: pytest.FixtureRequest) -> NewKey:
    """An admin's key that sees bodies, of this test alone."""
    async with stack.database() as database:
        return await create_key(
            database,
            team=request.node.nodeid,
            name="ops",
            owner="ada",
            admin=True,
            sees_bodies=True,
        )


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies and knows no key."""
    async with httpx.AsyncClient(base_url=stack.root_url, timeout=30) as client:
        yield client


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """What an answer refuses with, in OpenAI's shape: its status and code."""
    error: Json = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"]


async def log_in(browser: httpx.AsyncClient, key: NewKey) -> Json:
    """The session's object."""
    answer = await browser.post(PATH, json={"key": key.secret})
    assert answer.status_code == 200, answer.text
    session: Json = answer.json()
    return session


async def test_a_login_gives_a_cookie_that_no_script_reads_and_no_other_site_sends(
    browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    answer = await browser.post(PATH, json={"key": admin_key.secret})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    session = answer.json()
    assert (session["name"], session["owner"]) == ("ops", "ada")
    assert session["sees_bodies"] is True
    assert (await browser.get(PATH)).json() == session
    assert (await browser.get("/admin/v1/overview")).status_code == 200


async def test_behind_https_the_cookie_is_sent_over_https_alone(
    browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    answer = await browser.post(
        PATH, json={"key": admin_key.secret}, headers={"x-forwarded-proto": "https"}
    )
    assert "Secure" in answer.headers["set-cookie"].split("; ")


async def test_only_a_hash_of_the_cookie_is_stored(
    stack: Stack, browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    await log_in(browser, admin_key)
    cookie = browser.cookies["carpool_session"]
    assert await stack.value("select count(*) from sessions where hash = $1", hash_of(cookie)) == 1
    rows = await stack.fetch("select s::text as row from sessions s")
    shapes = (cookie, cookie.encode().hex())
    assert not [row for row in rows if any(shape in row["row"] for shape in shapes)]


@pytest.mark.parametrize("cookie", ["", "forged", "0" * 5000, "caf\u00e9"])
async def test_a_forged_cookie_opens_nothing(browser: httpx.AsyncClient, cookie: str) -> None:
    header = b"carpool_session=" + cookie.encode("latin-1")
    for path in (PATH, "/admin/v1/overview", "/admin/v1/events", "/admin/v1/workers"):
        answer = await browser.get(path, headers={b"cookie": header})
        assert answer.status_code == 401, (path, answer.text)


async def test_a_session_ends_at_its_time(
    stack: Stack, browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    await log_in(browser, admin_key)
    cookie = browser.cookies["carpool_session"]
    await stack.fetch("update sessions set expires_at = now() where hash = $1", hash_of(cookie))
    assert refusal(await browser.get(PATH)) == (401, "no_session")
    assert refusal(await browser.get("/admin/v1/overview")) == (401, "no_session")


async def test_a_session_ends_with_its_key(
    stack: Stack, browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    await log_in(browser, admin_key)
    async with stack.database() as database:
        assert await revoke_key(database, str(admin_key.id))
    assert refusal(await browser.get("/admin/v1/overview")) == (401, "no_session")


async def test_who_logs_out_is_out_with_a_copied_cookie_too(
    browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    session = await log_in(browser, admin_key)
    cookie = f"carpool_session={browser.cookies['carpool_session']}"
    answer = await browser.delete(PATH, headers={"x-carpool-csrf": session["csrf"]})
    assert answer.status_code == 200
    assert "carpool_session" not in browser.cookies
    assert refusal(await browser.get(PATH, headers={"cookie": cookie})) == (401, "no_session")


async def test_a_change_by_cookie_needs_the_token_of_its_own_session(
    browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    """A page of another site can make a browser send the cookie, and cannot read the token."""
    other = (await log_in(browser, admin_key))["csrf"]
    session = await log_in(browser, admin_key)
    route = {"legs": [{"backend": "simulated"}]}
    for headers in ({}, {"x-carpool-csrf": ""}, {"x-carpool-csrf": other}):
        changes = [
            browser.put("/admin/v1/routes/mine", json=route, headers=headers),
            browser.post("/admin/v1/workers/proc_" + "0" * 32 + "/drain", headers=headers),
            browser.delete(PATH, headers=headers),
            browser.post("/admin/v1/chat/completions", json=CHAT, headers=headers),
        ]
        for change in changes:
            assert refusal(await change) == (403, "csrf")
    token = {"x-carpool-csrf": session["csrf"]}
    assert (await browser.put("/admin/v1/routes/mine", json=route, headers=token)).is_success
    assert (await browser.delete("/admin/v1/routes/mine", headers=token)).is_success


async def test_another_site_cannot_log_a_browser_in(
    browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    answer = await browser.post(
        PATH, json={"key": admin_key.secret}, headers={"sec-fetch-site": "cross-site"}
    )
    assert refusal(answer) == (403, "csrf")
    assert not browser.cookies


async def test_a_team_key_administers_nothing(
    stack: Stack, browser: httpx.AsyncClient, team: NewKey
) -> None:
    assert refusal(await browser.post(PATH, json={"key": team.secret}))[0] == 403
    bearer = {"authorization": f"Bearer {team.secret}"}
    for path in ("overview", "events", "depths", "activity", "teams", "workers", "backends/x"):
        answer = await browser.get(f"/admin/v1/{path}", headers=bearer)
        assert refusal(answer) == (403, "insufficient_permissions"), path


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"key":"sk-carpool-unknown"}', 401, "invalid_api_key"),
        (b'{"key":""}', 401, "invalid_api_key"),
        (b'{"key":7}', 400, "invalid_value"),
        (b"{}", 400, "invalid_value"),
        (b"not json", 400, "invalid_value"),
        (b'{"key":"\xff"}', 400, "invalid_value"),
        (b'{"key":"' + b"x" * 20_000 + b'"}', 413, "request_too_large"),
    ],
    ids=range(7),
)
async def test_a_bad_login_sets_no_cookie(
    browser: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    answer = await browser.post(PATH, content=body)
    assert refusal(answer) == (status, code)
    assert "set-cookie" not in answer.headers


async def test_the_playground_answers_as_the_sessions_own_team(
    stack: Stack, browser: httpx.AsyncClient, admin_key: NewKey
) -> None:
    session = await log_in(browser, admin_key)
    token = {"x-carpool-csrf": session["csrf"]}
    path = "/admin/v1/chat/completions"
    answer = await browser.post(path, json=CHAT, headers=token)
    assert answer.json()["choices"][0]["message"]["content"].startswith("simulated")
    streamed = await browser.post(path, json=CHAT | {"stream": True}, headers=token)
    assert streamed.text.endswith("data: [DONE]\n\n")
    asked = "select distinct r.key_id from requests r join keys k using (team_id) where k.id = $1"
    keys = await stack.fetch(asked, admin_key.id)
    assert [row["key_id"] for row in keys] == [admin_key.id]
