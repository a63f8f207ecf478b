"""Admins see all savings, a team sees its own, and both agree with the formula."""

from datetime import UTC, date, datetime, timedelta

import pytest

from carpool.prices import Ledger
from db.keys import NewKey
from tests.integration.savings import admin, ended, http, refused, team_name, worked_example
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("quiet")


def today() -> date:
    """Asked for before and after what is counted: midnight may come between."""
    return datetime.now(UTC).date()


@pytest.mark.usefixtures("terra")
async def test_a_worked_example_agrees_with_the_formula(stack: Stack, team: NewKey) -> None:
    """COMPAT section 5, by hand, in dollars for one request.

    Live with nothing cached 10,000 * 1 + 2,000 * 5 = $0.02; live with its cached input
    1,000 * 1 + 8,000 * 0.05 + 1,000 * 1.25 + 2,000 * 5 = $0.01265; in the batch half of that.
    """
    await worked_example(stack, team)
    async with http(stack, team.secret) as client:
        found = (await client.get("/v1/savings")).json()
    assert (found["object"], found["group_by"], found["currency"]) == ("savings", "model", "USD")
    own, terra, unheard_of = found["data"]
    assert terra == {
        "model": "gpt-6.1-terra",
        "requests": 20,
        "requests_without_price": 0,
        "input_tokens": 200_000,
        "cached_tokens": 160_000,
        "output_tokens": 40_000,
        "paid": 10 * 0.006325 + 5 * 0.01265,
        "list_price": 20 * 0.02,
        "saved": {
            "shared": 3 * 0.02,
            "cache": 2 * 0.02,
            "prefix": pytest.approx(15 * 0.00735),
            "window": 10 * 0.006325,
            "own": 0,
            "total": pytest.approx(20 * 0.02 - 0.1265),
        },
    }
    assert (own["model"], own["paid"], own["list_price"]) == ("assistant", 0, 0.08)
    assert own["saved"]["own"] == own["saved"]["total"] == 0.08
    assert (unheard_of["requests_without_price"], unheard_of["list_price"]) == (1, 0)
    assert found["total"] == {
        name: pytest.approx(terra[name] + own[name] + unheard_of[name])
        for name in terra
        if name not in ("model", "saved")
    } | {
        "saved": {
            means: pytest.approx(terra["saved"][means] + own["saved"][means])
            for means in terra["saved"]
        }
    }


@pytest.mark.usefixtures("terra")
async def test_a_team_sees_its_own_and_an_admin_all(stack: Stack, team: NewKey) -> None:
    other = await stack.new_key(f"other than {await team_name(stack, team)}")
    began = today()
    await worked_example(stack, team)
    await ended(stack, other, "theirs", Ledger(paid=5))
    async with http(stack, team.secret) as client:
        mine = (await client.get("/v1/savings")).json()
        by_backend = (await client.get("/v1/savings?group_by=backend")).json()["data"]
        by_day = (await client.get("/v1/savings?group_by=day")).json()["data"]
    assert "theirs" not in [row["model"] for row in mine["data"]]
    assert [(row["backend"], row["requests"]) for row in by_backend] == [("openai", 25)]
    assert {row["day"] for row in by_day} <= {str(began), str(today())}
    assert sum(row["requests"] for row in by_day) == 25
    name = await team_name(stack, team)
    async with admin(stack) as client:
        theirs = (await client.get("/admin/v1/savings", params={"team": name})).json()
        teams = (await client.get("/admin/v1/savings?group_by=team")).json()["data"]
    assert theirs == mine
    sums = {row.pop("team"): row for row in teams}
    assert sums[name] == mine["total"]
    assert sums[f"other than {name}"]["paid"] == 5e-9


async def test_a_span_of_days(stack: Stack, team: NewKey) -> None:
    began = today()
    await ended(stack, team, "m", Ledger(paid=1))
    last = today()
    tomorrow, yesterday = str(last + timedelta(days=1)), str(began - timedelta(days=1))
    async with http(stack, team.secret) as client:

        async def requests(**query: str) -> int:
            answer = (await client.get("/v1/savings", params=query)).json()
            assert (answer["since"], answer["until"]) == (query.get("since"), query.get("until"))
            return int(answer["total"]["requests"])

        assert await requests(since=str(began), until=str(last)) == 1
        assert await requests(since=tomorrow) == 0
        assert await requests(until=yesterday) == 0


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/v1/savings?since=soon", 400, "since"),
        ("/v1/savings?until=2026-11-31", 400, "until"),
        ("/v1/savings?since=2026-11-02&until=2026-11-01", 400, "until"),
        ("/v1/savings?group_by=person", 400, "group_by"),
        ("/v1/savings?group_by=team", 400, "group_by"),
        ("/v1/savings?team=other", 400, "team"),
        ("/admin/v1/savings?since=", 400, "since"),
        ("/admin/v1/savings?group_by=", 400, "group_by"),
        ("/admin/v1/savings?team=nobody-at-all", 404, "team"),
        ("/admin/v1/savings?team=%00", 404, "team"),
        ("/admin/v1/savings?team=%ff", 404, "team"),
    ],
)
async def test_a_question_that_cannot_be_answered(
    stack: Stack, path: str, status: int, param: str
) -> None:
    async with admin(stack) as client:
        assert refused(await client.get(path), status)["param"] == param
