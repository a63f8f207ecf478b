"""Admins set, list and delete prices; one that cannot be changes nothing."""

import pytest

from db.keys import NewKey
from tests.integration.savings import TERRA, admin, http, refused
from tests.stack import Json, Stack

pytestmark = pytest.mark.usefixtures("quiet")


async def test_a_price_is_set_listed_and_deleted(stack: Stack) -> None:
    async with admin(stack) as client:
        mine = TERRA | {"model": "org/m:1 \U0001f697", "backend": "azure"}
        stored = (await client.put("/admin/v1/prices", json=mine)).json()
        since = {"since": "2026-11-01T00:00:00+00:00"}
        assert stored == mine | since | {"object": "price", "currency": "USD"}
        assert (await client.put("/admin/v1/prices", json=mine | {"output": 6})).json() == (
            stored | {"output": 6}
        )
        listed = (await client.get("/admin/v1/prices")).json()["data"]
        assert [row for row in listed if row["model"] == mine["model"]] == [stored | {"output": 6}]
        key = {name: mine[name] for name in ("model", "backend", "since")}
        assert (await client.delete("/admin/v1/prices", params=key)).json()["deleted"] is True
        assert refused(await client.delete("/admin/v1/prices", params=key), 404)
        listed = (await client.get("/admin/v1/prices")).json()["data"]
        assert mine["model"] not in [row["model"] for row in listed]


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"since": None}, "since", "a price needs the date"),
        ({"since": 1793491200}, "since", "a price needs the date"),
        ({"since": "2026-13-01"}, "since", "expected a date"),
        ({"input": "-1"}, "input", "greater than or equal"),
        ({"input": 1e300}, "input", "less than or equal"),
        ({"output": {}}, "output", "Decimal"),
        ({"cached": 2}, "cached", "costs no more than other input"),
        ({"long_tokens": None}, "long_input", "needs long_tokens"),
        ({"model": "a\0"}, "model", "NUL"),
        ({"prize": 1}, "prize", "not permitted"),
    ],
)
async def test_a_price_that_cannot_be_changes_nothing(
    stack: Stack, change: Json, param: str, reason: str
) -> None:
    before = await stack.value("select count(*) from prices")
    async with admin(stack) as client:
        error = refused(await client.put("/admin/v1/prices", json=TERRA | change))
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert reason in error["message"]
    assert await stack.value("select count(*) from prices") == before


@pytest.mark.parametrize("missing", ["since", "model", "input", "output"])
async def test_a_price_without_what_it_needs_is_refused(stack: Stack, missing: str) -> None:
    body = {name: value for name, value in TERRA.items() if name != missing}
    async with admin(stack) as client:
        error = refused(await client.put("/admin/v1/prices", json=body))
    assert error["param"] == missing
    assert missing in error["message"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"model": "\\ud800"}', b"[" * 100_000, b"9" * 10_000],
    ids=range(8),
)
async def test_a_body_that_is_no_object_is_refused(stack: Stack, raw: bytes) -> None:
    async with admin(stack) as client:
        error = refused(await client.put("/admin/v1/prices", content=raw))
    assert (error["param"], error["code"]) == (None, "invalid_json")


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "m"}, 400, "since"),
        ({"model": "m", "since": "soon"}, 400, "since"),
        ({"model": "m", "since": "2026-11-01"}, 404, None),
        ({"model": "m\0", "since": "2026-11-01"}, 404, None),
    ],
)
async def test_a_price_that_is_not_there_cannot_be_deleted(
    stack: Stack, query: Json, status: int, param: str | None
) -> None:
    async with admin(stack) as client:
        answer = await client.delete("/admin/v1/prices", params=query)
    assert refused(answer, status)["param"] == param


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/v1/prices"),
        ("PUT", "/admin/v1/prices"),
        ("DELETE", "/admin/v1/prices?model=m&since=2026-11-01"),
        ("GET", "/admin/v1/savings"),
    ],
)
async def test_only_admins_administer(stack: Stack, team: NewKey, method: str, path: str) -> None:
    before = await stack.value("select count(*) from prices")
    async with http(stack, team.secret) as client:
        error = refused(await client.request(method, path, json=TERRA | {"model": "x"}), 403)
        assert error["code"] == "insufficient_permissions"
        del client.headers["authorization"]
        refused(await client.request(method, path, json=TERRA | {"model": "x"}), 401)
    assert await stack.value("select count(*) from prices") == before
