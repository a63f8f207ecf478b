"""Admins set prices and see all savings, a team sees its own; the command shows the same sums."""

import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from carpool.prices import Ledger, Usage, cost
from db.keys import NewKey
from db.prices import list_prices
from tests.stack import CARPOOL, Json, Stack

pytestmark = pytest.mark.usefixtures("quiet")

TODAY = datetime.now(UTC).date()
TERRA: Json = {
    "model": "gpt-6.1-terra",
    "since": "2026-11-01",
    "input": 1,
    "cached": 0.05,
    "written": 1.25,
    "output": 5,
    "long_tokens": 272_000,
    "long_input": 2,
    "long_output": 1.5,
}
USAGE = Usage(prompt=10_000, cached=8_000, written=1_000, completion=2_000)
DELTA = """
insert into deltas (
    team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens, cached_tokens,
    completion_tokens, paid, saved_shared, saved_cache, saved_prefix, saved_window, saved_own
)
select k.team_id, $2, $3, $4, 0, 0, 0, $5, $6, $7, $8, $9, $10, $11, $12, $13
from keys k where k.id = $1
"""


def admin(stack: Stack) -> httpx.AsyncClient:
    """The admin API, with an admin's key."""
    return http(stack, stack.admin_key)


def http(stack: Stack, key: str) -> httpx.AsyncClient:
    """Bare HTTP from the root, for what is not under ``/v1``."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=stack.root_url, headers=headers, timeout=30)


def refused(answer: httpx.Response, status: int = 400) -> Json:
    """The error of a refusal in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def ended(
    stack: Stack, team: NewKey, model: str, ledger: Ledger, usage: Usage = USAGE, times: int = 1
) -> None:
    """Let so many requests alike of a team have ended."""
    tokens = (usage.prompt, usage.cached, usage.completion)
    values = [times * each for each in (*tokens, *ledger.columns)]
    await stack.fetch(DELTA, team.id, model, "openai", times, *values)


async def team_name(stack: Stack, team: NewKey) -> str:
    query = "select t.name from teams t join keys k on k.team_id = t.id where k.id = $1"
    return str(await stack.value(query, team.id))


async def worked_example(stack: Stack, team: NewKey) -> None:
    """10 requests in a 24 h batch, 5 live, 3 followers, 2 hits, 4 on an own GPU, 1 unpriced."""
    async with stack.database() as database:
        price = (await list_prices(database)).at("gpt-6.1-terra")
    batch, live = cost(USAGE, price, tier=0.5), cost(USAGE, price)
    await ended(stack, team, "gpt-6.1-terra", batch, times=10)
    await ended(stack, team, "gpt-6.1-terra", live, times=5)
    await ended(stack, team, "gpt-6.1-terra", live.for_follower(), times=3)
    await ended(stack, team, "gpt-6.1-terra", live.for_hit(), times=2)
    await ended(stack, team, "assistant", cost(USAGE, price, own=True), times=4)
    await ended(stack, team, "unheard-of", cost(USAGE, None))


@pytest.fixture
async def terra(stack: Stack) -> None:
    """The price of COMPAT section 5."""
    async with admin(stack) as client:
        answer = await client.put("/admin/v1/prices", json=TERRA)
        assert answer.status_code == 200, answer.text


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
    await worked_example(stack, team)
    await ended(stack, other, "theirs", Ledger(paid=5))
    async with http(stack, team.secret) as client:
        mine = (await client.get("/v1/savings")).json()
        by_backend = (await client.get("/v1/savings?group_by=backend")).json()["data"]
        by_day = (await client.get("/v1/savings?group_by=day")).json()["data"]
    assert "theirs" not in [row["model"] for row in mine["data"]]
    assert [(row["backend"], row["requests"]) for row in by_backend] == [("openai", 25)]
    assert [(row["day"], row["requests"]) for row in by_day] == [(str(TODAY), 25)]
    name = await team_name(stack, team)
    async with admin(stack) as client:
        theirs = (await client.get("/admin/v1/savings", params={"team": name})).json()
        teams = (await client.get("/admin/v1/savings?group_by=team")).json()["data"]
    assert theirs == mine
    sums = {row.pop("team"): row for row in teams}
    assert sums[name] == mine["total"]
    assert sums[f"other than {name}"]["paid"] == 5e-9


async def test_a_span_of_days(stack: Stack, team: NewKey) -> None:
    await ended(stack, team, "m", Ledger(paid=1))
    tomorrow, yesterday = (str(TODAY + timedelta(days=n)) for n in (1, -1))
    async with http(stack, team.secret) as client:

        async def requests(**query: str) -> int:
            answer = (await client.get("/v1/savings", params=query)).json()
            assert (answer["since"], answer["until"]) == (query.get("since"), query.get("until"))
            return int(answer["total"]["requests"])

        assert await requests(since=str(TODAY), until=str(TODAY)) == 1
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


@pytest.mark.usefixtures("terra")
async def test_the_command_prints_lines_where_there_is_no_terminal(
    stack: Stack, team: NewKey
) -> None:
    await worked_example(stack, team)
    name = await team_name(stack, team)
    said = run(stack, "savings", "--team", name, "--since", str(TODAY))
    heading, own, terra, unheard_of, total = [line.split("\t") for line in said.stdout.splitlines()]
    assert dict(zip(heading, terra, strict=True)) == {
        "model": "gpt-6.1-terra",
        "requests": "20",
        "without price": "0",
        "tokens in": "200000",
        "cached": "160000",
        "out": "40000",
        "paid $": "0.126500000",
        "list price $": "0.400000000",
        "saved $": "0.273500000",
        "shared": "0.060000000",
        "cache": "0.040000000",
        "prefix": "0.110250000",
        "window": "0.063250000",
        "own": "0.000000000",
    }
    assert (own[0], own[-1]) == ("assistant", "0.080000000")
    assert (unheard_of[0], unheard_of[2]) == ("unheard-of", "1")
    assert (total[0], total[1], total[7]) == ("total", "25", "0.480000000")


@pytest.mark.usefixtures("terra")
async def test_the_command_prints_a_table_on_a_terminal(stack: Stack, team: NewKey) -> None:
    await worked_example(stack, team)
    shown = on_terminal(stack, "savings", "--team", await team_name(stack, team), "--by", "day")
    heading, day, total, note = shown.splitlines()
    columns = ["day", "requests", "without", "price", "tokens", "in", "cached", "out", "paid", "$"]
    assert heading.split()[: len(columns)] == columns
    assert day.split()[:6] == [str(TODAY), "25", "1", "250,000", "200,000", "50,000"]
    assert total.split()[6:9] == ["0.1265", "0.4800", "0.3535"]
    assert note.startswith("1 requests had no price")


async def test_the_commands_for_prices(stack: Stack) -> None:
    key = ("by-hand", "--since", "2026-11-01", "--backend", "gpu")
    assert run(stack, "prices", "set", *key, "--input", "0.02", "--output", "0.1").stdout == (
        "Set.\n"
    )
    again = run(stack, "prices", "set", *key, "--input", "0.020", "--output", "0.1")
    assert again.stdout == "It is so already.\n"
    listed = run(stack, "prices", "list").stdout
    [line] = [line.split() for line in listed.splitlines() if line.strip().startswith("by-hand")]
    assert line == ["by-hand", "gpu", "2026-11-01T00:00:00+00:00", *["0.02"] * 3, "0.1"]
    assert run(stack, "prices", "delete", *key).stdout == "Deleted.\n"
    assert "by-hand" not in run(stack, "prices", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("savings", "--since", "soon"), "--since: expected a date"),
        (("savings", "--until", "soon"), "--until: expected a date"),
        (("savings", "--team", "nobody-at-all"), "--team: there is no team 'nobody-at-all'"),
        (
            ("prices", "set", "m", "--since", "soon", "--input", "1", "--output", "1"),
            "--since: expected a date",
        ),
        (
            ("prices", "set", "m", "--since", "2026-11-01", "--input", "x", "--output", "1"),
            "--input: ",
        ),
        (("prices", "delete", "m", "--since", "2026-11-01"), "there is no such price"),
    ],
)
async def test_a_mistake_is_one_line(stack: Stack, arguments: tuple[str, ...], reason: str) -> None:
    said = run(stack, *arguments, code=2)
    assert said.stderr.startswith(f"carpool: {reason}")
    assert said.stderr.count("\n") == 1


async def test_a_price_without_date_is_refused_by_the_command(stack: Stack) -> None:
    said = run(stack, "prices", "set", "m", "--input", "1", "--output", "1", code=2)
    assert "--since" in said.stderr


def run(stack: Stack, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, its output to a pipe."""
    said = subprocess.run(
        [*CARPOOL, *arguments, "--data-dir", str(stack.directory)], capture_output=True, text=True
    )
    assert said.returncode == code, said.stderr
    return said


def on_terminal(stack: Stack, *arguments: str) -> str:
    """What the command shows on a terminal without colours."""
    mine, its = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "NO_COLOR": "1"}
    command = [*CARPOOL, *arguments, "--data-dir", str(stack.directory)]
    with subprocess.Popen(command, stdout=its, env=environment) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            shown += piece
    os.close(mine)
    assert process.returncode == 0
    return shown.decode()
