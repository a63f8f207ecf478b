"""Prices are kept by date; savings are sums of totals, as fast after ten million requests."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from carpool.price_settings import PriceSettings
from carpool.prices import COLUMNS, Ledger, PriceRow
from db.batch_sweep import FOLD
from db.prices import delete_price, ensure_prices, list_prices, set_price
from db.savings import SAVINGS, GroupBy, Saving, find_team, savings, total
from tests.integration.plans import explain

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

FIRST = datetime(2026, 11, 1, tzinfo=UTC)
TODAY = datetime.now(UTC).date()
LEDGER = Ledger(
    paid=1,
    saved_shared=20,
    saved_cache=300,
    saved_prefix=-4,
    saved_window=50_000,
    saved_own=600_000,
)
DELTA = f"""
insert into deltas (
    team_id, model, backend, batch_id, completed, failed, cancelled, expired,
    prompt_tokens, cached_tokens, completion_tokens, {", ".join(COLUMNS)}
)
values ($1, $2, $3, $4, $5, 1, 1, 1, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
TOTAL = f"""
insert into totals (
    day, team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens,
    cached_tokens, completion_tokens, {", ".join(COLUMNS)}
)
values ($1, $2, $3, $4, $5, 1, 1, 1, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
DAYS, TEAMS, MODELS = 400, 50, 20
# As ten million requests of 50 teams and 20 models leave them in 400 days.
FILL = f"""
insert into totals (
    day, team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens,
    cached_tokens, completion_tokens, {", ".join(COLUMNS)}
)
select
    (now() at time zone 'utc')::date - d, t, 'model-' || m, 'openai', 25, 1, 0, 0, 30000, 20000,
    5000, 70000, 100, 200, 300, 400, 500
from generate_series(0, {DAYS - 1}) d, generate_series(1, {TEAMS}) t, generate_series(1, {MODELS}) m
"""


def row(**columns: Any) -> PriceRow:
    """Of the model `gpt`, at $1 and $5, unless told otherwise."""
    values = {"model": "gpt", "since": FIRST, "input": 1, "output": 5}
    return PriceSettings.model_validate(values | columns).row


async def delta(bench: "Bench", ledger: Ledger = LEDGER, **columns: Any) -> None:
    """Ten answers of 100 input tokens, 40 of them cached, and 30 output tokens, together."""
    given = {"team_id": 1, "model": "gpt", "backend": "openai", "batch_id": None} | columns
    await bench.sql(DELTA, *given.values(), 10, 1000, 400, 300, *ledger.columns)


async def day(bench: "Bench", ended: date, ledger: Ledger = LEDGER, **columns: Any) -> None:
    """The same, folded on an earlier day."""
    given = {"team_id": 1, "model": "gpt", "backend": "openai"} | columns
    await bench.sql(TOTAL, ended, *given.values(), 10, 1000, 400, 300, *ledger.columns)


def saving(key: str, times: int = 1, **changes: Any) -> Saving:
    """What so many of them come to."""
    ledger = Ledger(**{name: getattr(LEDGER, name) * times for name in COLUMNS})
    usual = Saving(
        key=key,
        requests=10 * times,
        prompt=1000 * times,
        cached=400 * times,
        completion=300 * times,
        ledger=ledger,
    )
    return replace(usual, **changes)


async def test_prices_come_back_as_they_went_in(bench: "Bench") -> None:
    rows = [
        row(),
        row(since=FIRST + timedelta(days=30), input=0.000001, cached=0, written="0.125"),
        row(backend="azure", long_tokens=272_000, long_input=2, long_output=1.5),
        row(model="Ä\U0001f697/x:1"),
    ]
    for each in rows:
        assert await set_price(bench.database, each)
    listed = await list_prices(bench.database)
    assert sorted(listed.rows, key=repr) == sorted(rows, key=repr)
    assert listed.at("gpt", "azure", FIRST) == rows[2].price
    found = listed.at("gpt", moment=FIRST + timedelta(days=31))
    assert found is not None
    assert found.input == Decimal("0.000001")


async def test_a_price_takes_the_place_of_the_one_of_its_date(bench: "Bench") -> None:
    await set_price(bench.database, row())
    assert not await set_price(bench.database, row())
    assert await set_price(bench.database, row(output=6))
    assert (await list_prices(bench.database)).rows == [row(output=6)]


async def test_a_deleted_price_gives_way_to_the_one_before(bench: "Bench") -> None:
    later = FIRST + timedelta(days=1)
    await set_price(bench.database, row())
    await set_price(bench.database, row(since=later, output=6))
    assert await delete_price(bench.database, "gpt", "", later)
    assert not await delete_price(bench.database, "gpt", "", later)
    assert not await delete_price(bench.database, "gpt", "azure", FIRST)
    assert (await list_prices(bench.database)).at("gpt", moment=later) == row().price


async def test_processes_that_start_at_once_store_the_files_prices_and_leave_others(
    bench: "Bench",
) -> None:
    await set_price(bench.database, row(model="other"))
    await set_price(bench.database, row(output=7))
    rows = [row(model=f"m{n}") for n in range(20)] + [row()]
    orders = (rows, rows[::-1], rows)
    await asyncio.gather(*(ensure_prices(bench.database, order) for order in orders))
    found = (await list_prices(bench.database)).rows
    assert sorted(found, key=repr) == sorted([*rows, row(model="other")], key=repr)


async def test_what_is_folded_and_what_is_not_yet_are_counted_once(bench: "Bench") -> None:
    for batch in (None, "0196f000-0000-7000-8000-000000000000"):
        await delta(bench, batch_id=batch)
        await delta(bench, batch_id=batch)
        await delta(bench, model="own", backend=None)
    before = await savings(bench.database)
    assert before == [saving("gpt", 4), saving("own", 2)]
    for folded in (2, 1, 100):
        await bench.sql(FOLD, folded)
        assert await savings(bench.database) == before
    assert await bench.value("select count(*) from deltas") == 0
    sums = ", ".join(f"sum({name})::bigint" for name in COLUMNS)
    [stored] = await bench.sql(f"select {sums} from totals")
    assert tuple(stored) == tuple(6 * each for each in LEDGER.columns)
    assert total(before) == saving("total", 6)


async def test_a_reader_never_sees_a_fold_half_done(bench: "Bench") -> None:
    """Each look is one statement: a delta is in it as such, or in the totals."""
    for _ in range(60):
        await delta(bench)
    looking = asyncio.Event()

    async def fold() -> None:
        """A part, as each look begins."""
        lane = bench.lane()
        while await bench.value("select count(*) from deltas"):
            await looking.wait()
            looking.clear()
            await lane.fetch(FOLD, 3)

    task = asyncio.create_task(fold())
    looks = 0
    while not task.done():
        looking.set()
        assert await savings(bench.database) == [saving("gpt", 60)]
        looks += 1
    await task
    assert looks >= 20


async def test_sums_by_team_backend_and_day(bench: "Bench") -> None:
    for name in ("zebras", "apes"):
        await bench.sql("insert into teams (name) values ($1)", name)
    zebras, apes = [await find_team(bench.database, name) for name in ("zebras", "apes")]
    assert await find_team(bench.database, "nobody") is None
    yesterday = TODAY - timedelta(days=1)
    await day(bench, yesterday, team_id=zebras)
    await delta(bench, team_id=zebras, backend="gpu")
    await delta(bench, team_id=apes, backend=None)
    look = bench.database
    assert await savings(look, group_by=GroupBy.TEAM) == [saving("apes"), saving("zebras", 2)]
    assert await savings(look, group_by=GroupBy.BACKEND) == [
        *(saving(""), saving("gpu"), saving("openai"))
    ]
    assert await savings(look, group_by=GroupBy.DAY) == [
        *(saving(str(yesterday)), saving(str(TODAY), 2))
    ]
    assert await savings(look, team_id=zebras) == [saving("gpt", 2)]
    assert await savings(look, team_id=zebras, since=TODAY) == [saving("gpt")]


@pytest.mark.parametrize(
    ("since", "until", "days"),
    [(None, None, 4), (-2, None, 3), (0, None, 1), (None, -1, 3), (-2, -1, 2), (1, None, 0)],
)
async def test_both_days_of_a_span_are_in_it(
    bench: "Bench", since: int | None, until: int | None, days: int
) -> None:
    for ago in (1, 2, 3):
        await day(bench, TODAY - timedelta(days=ago))
    await delta(bench)
    first, last = (None if n is None else TODAY + timedelta(days=n) for n in (since, until))
    found = await savings(bench.database, since=first, until=last)
    assert found == ([saving("gpt", days)] if days else [])


async def test_requests_without_a_price_are_told_apart_from_free_ones(bench: "Bench") -> None:
    """What was saved whole was priced; and who used no token owes nothing."""
    unknown = Ledger()
    await delta(bench, unknown, model="unheard-of")
    await delta(bench, Ledger(saved_own=5), model="own")
    await bench.sql(DELTA, 1, "empty", None, None, 10, 0, 0, 0, *unknown.columns)
    found = {each.key: each for each in await savings(bench.database)}
    assert {key: each.unpriced for key, each in found.items()} == {
        "unheard-of": 10,
        "own": 0,
        "empty": 0,
    }
    assert found["unheard-of"] == saving("unheard-of", unpriced=10, ledger=unknown)


def relations(plan: dict[str, Any]) -> Iterator[str]:
    if "Relation Name" in plan:
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from relations(part)


async def test_savings_read_totals_and_deltas_and_stay_fast(bench: "Bench") -> None:
    """400,000 totals: what 50 teams with 20 models leave in 400 days, however busy they were."""
    await bench.sql(FILL)
    await bench.sql("analyze totals")
    await delta(bench, model="model-1")
    types = ("integer", "date", "date", "text")
    connection = await bench.connection()
    await connection.execute(f"prepare s_savings as {SAVINGS}")
    for team_id in (None, 7):
        values = (team_id, date.min, date.max, "model")
        plan = await explain(connection, "s_savings", types, values)
        assert set(relations(plan)) == {"totals", "deltas"}
    took: dict[str, float] = {}
    for group_by in GroupBy:
        began = time.perf_counter()
        found = await savings(bench.database, group_by=group_by)
        took[group_by] = time.perf_counter() - began
        assert total(found).requests == DAYS * TEAMS * MODELS * 25 + 10
    began = time.perf_counter()
    [*_, last] = await savings(bench.database, team_id=7, group_by=GroupBy.DAY)
    took["one team"] = time.perf_counter() - began
    assert last.requests == MODELS * 25
    assert max(took.values()) < 5, took
