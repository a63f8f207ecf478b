"""Paid and saved make the list price to the nanodollar, by COMPAT section 5's formula."""

import tomllib
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from carpool.errors import ConfigurationError
from carpool.price_settings import MAX_DOLLARS, MAX_FACTOR, PriceSettings, moment_of
from carpool.prices import (
    COLUMNS,
    UNKNOWN,
    Ledger,
    Price,
    PriceList,
    PriceRow,
    Quote,
    Usage,
    cost,
)
from carpool.settings import load

FIRST = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIERS = (1, 0.7, 0.6, 0.5)
LONG_TOKENS = 272_000


def price(*dollars: str | float, **more: Any) -> Price:
    """Of input, cached, written and output tokens."""
    of_input, cached, written, output = (Decimal(str(d)) for d in dollars)
    return Price(input=of_input, cached=cached, written=written, output=output, **more)


COMPAT = {
    "gpt-6-luna": price(0.10, 0.01, 0.125, 0.50),
    "gpt-6.1-terra": price(1, 0.05, 1.25, 5),
    "gpt-6.1-sol": price(2, 0.10, 2.50, 10),
    "gpt-6-astra": price(10, 1, 12.50, 50),
}


def formula(usage: Usage, of: Price, tier: float) -> Fraction:
    """Dollars, as COMPAT section 5 writes it."""
    uncached = usage.prompt - usage.cached - usage.written
    return (
        Fraction(str(tier))
        * (
            uncached * Fraction(of.input)
            + usage.cached * Fraction(of.cached)
            + usage.written * Fraction(of.written)
            + usage.completion * Fraction(of.output)
        )
        / 1_000_000
    )


def dollars(whole: int, places: int = 6) -> Any:
    return st.decimals(0, whole, places=places, allow_nan=False)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """A price as the settings admit it: cached input never costs more than other input."""
    of_input = draw(dollars(100))
    return Price(
        input=of_input,
        cached=draw(st.decimals(0, of_input, places=6)),
        written=draw(dollars(200)),
        output=draw(dollars(500)),
        long_tokens=draw(st.none() | st.integers(1, 2000)),
        long_input=draw(st.sampled_from([Decimal(1), Decimal(2), Decimal("1.2345")])),
        long_output=draw(st.sampled_from([Decimal(1), Decimal("1.5")])),
    )


@st.composite
def usages(draw: st.DrawFn, *, writes: bool = True) -> Usage:
    uncached, cached, written = (draw(st.integers(0, 10**6)) for _ in range(3))
    written *= writes
    return Usage(
        prompt=uncached + cached + written,
        cached=cached,
        written=written,
        completion=draw(st.integers(0, 10**6)),
    )


tiers = st.sampled_from(TIERS)


@given(usages(), prices(), tiers, st.booleans(), st.none() | prices())
def test_paid_and_all_saved_are_the_list_price_with_nothing_cached(
    usage: Usage, of: Price, tier: float, own: bool, own_price: Price | None
) -> None:
    ledger = cost(usage, of, tier=tier, own=own, own_price=own_price)
    bare = Usage(prompt=usage.prompt, completion=usage.completion)
    live = cost(bare, of)
    assert sum(ledger.columns) == ledger.listed == live.paid == live.listed
    assert ledger.paid + ledger.saved == live.paid
    assert ledger.for_follower() == Ledger(saved_shared=live.paid)
    assert ledger.for_hit() == Ledger(saved_cache=live.paid)


@given(usages(writes=False), prices(), tiers, st.booleans())
def test_where_nothing_is_written_nothing_is_negative(
    usage: Usage, of: Price, tier: float, own: bool
) -> None:
    assert min(cost(usage, of, tier=tier, own=own).columns) >= 0


@given(usages(), prices(), tiers)
def test_it_is_the_formula_rounded_once(usage: Usage, of: Price, tier: float) -> None:
    if of.long_tokens is not None and usage.prompt > of.long_tokens:
        usual = of
        of = Price(
            input=usual.input * usual.long_input,
            cached=usual.cached * usual.long_input,
            written=usual.written * usual.long_input,
            output=usual.output * usual.long_output,
        )
        assert cost(usage, usual, tier=tier) == cost(usage, of, tier=tier)
    assert cost(usage, of, tier=tier).paid == round(formula(usage, of, tier) * 10**9)


@given(st.lists(usages(), min_size=2, max_size=5), st.sampled_from(list(COMPAT.values())), tiers)
def test_the_ledger_of_many_is_the_sum_of_theirs(
    several: list[Usage], of: Price, tier: float
) -> None:
    """To less than a nanodollar for each request and rounding."""
    together = Usage(
        prompt=sum(u.prompt for u in several),
        cached=sum(u.cached for u in several),
        written=sum(u.written for u in several),
        completion=sum(u.completion for u in several),
    )
    summed = sum((cost(usage, of, tier=tier) for usage in several), UNKNOWN)
    whole = cost(together, of, tier=tier)
    assert summed.listed == whole.listed
    for mine, theirs in zip(summed.columns, whole.columns, strict=True):
        assert abs(mine - theirs) <= 2 * len(several)


def test_a_worked_example() -> None:
    """A 24 h batch at gpt-6.1-terra's price: 8,000 of 10,000 input tokens cached, 1,000 written."""
    usage = Usage(prompt=10_000, cached=8_000, written=1_000, completion=2_000)
    ledger = cost(usage, COMPAT["gpt-6.1-terra"], tier=0.5)
    assert ledger == Ledger(paid=6_325_000, saved_prefix=7_350_000, saved_window=6_325_000)
    assert ledger.listed == 20_000_000


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("model", COMPAT)
def test_a_months_work_agrees_to_the_cent_with_the_formula(model: str, tier: float) -> None:
    """5,000 requests of all lengths: rounding each to a nanodollar does not add up to a cent."""
    usages = [
        Usage(prompt=1024 + n % 977, cached=n % 907, written=n % 101, completion=n % 613)
        for n in range(5000)
    ]
    paid = sum(cost(usage, COMPAT[model], tier=tier).paid for usage in usages)
    exact = sum(formula(usage, COMPAT[model], tier) for usage in usages)
    assert abs(Fraction(paid, 10**9) - exact) < Fraction(1, 1000)
    assert f"{paid / 10**9:.2f}" == f"{float(exact):.2f}"


def test_long_requests_cost_more_from_the_first_token_above() -> None:
    """Above 272K input tokens: twice the input, cached and written too, 1.5 times the output."""
    terra = price(
        *(1, 0.05, 1.25, 5),
        long_tokens=LONG_TOKENS,
        long_input=Decimal(2),
        long_output=Decimal("1.5"),
    )
    usual = Usage(prompt=LONG_TOKENS, cached=200_000, written=10_000, completion=1000)
    long = Usage(prompt=LONG_TOKENS + 1, cached=200_000, written=10_000, completion=1000)
    assert cost(usual, terra) == cost(usual, COMPAT["gpt-6.1-terra"])
    assert cost(usual, terra).paid == 62_000_000 + 10_000_000 + 12_500_000 + 5_000_000
    assert cost(long, terra).paid == 124_002_000 + 20_000_000 + 25_000_000 + 7_500_000
    assert cost(long, terra).listed == 544_002_000 + 7_500_000


def test_writing_what_nobody_reads_costs_more_than_it_saves() -> None:
    ledger = cost(Usage(prompt=4000, written=4000, completion=0), COMPAT["gpt-6-astra"])
    assert ledger == Ledger(paid=50_000_000, saved_prefix=-10_000_000)


def test_an_own_backend_costs_what_its_own_price_says() -> None:
    usage = Usage(prompt=1000, cached=900, completion=100)
    listed = COMPAT["gpt-6.1-terra"]
    assert cost(usage, listed, own=True) == Ledger(saved_own=1_500_000)
    dear = price(3, 3, 3, 3)
    assert cost(usage, listed, own=True, own_price=price(0.1, 0, 0.1, 0.2)) == Ledger(
        paid=30_000, saved_own=1_470_000
    )
    assert cost(usage, listed, own=True, own_price=dear).saved_own == -1_800_000


def test_without_a_list_price_nothing_is_known() -> None:
    assert cost(Usage(prompt=5, completion=5), None, own=True, own_price=price(1, 1, 1, 1)) == (
        UNKNOWN
    )


def test_half_a_nanodollar_goes_to_the_even_side() -> None:
    half = price(0.0005, 0, 0.0005, 0)
    assert [cost(Usage(prompt=n), half).paid for n in (1, 3, 5)] == [0, 2, 2]


def test_more_cached_tokens_than_there_are_are_not_believed() -> None:
    of = COMPAT["gpt-6-luna"]
    assert cost(Usage(prompt=10, cached=99, written=99), of) == cost(
        Usage(prompt=10, cached=10), of
    )


def test_the_dearest_request_that_can_be_fits_64_bits() -> None:
    most = Decimal(MAX_DOLLARS)
    dearest = Price(
        input=most,
        cached=most,
        written=most,
        output=most,
        long_tokens=1,
        long_input=Decimal(MAX_FACTOR),
        long_output=Decimal(MAX_FACTOR),
    )
    assert cost(Usage(prompt=2**31 - 1, completion=2**31 - 1), dearest).listed < 2**63


def test_the_columns_are_those_of_the_tables() -> None:
    text = (Path(__file__).parents[2] / "migrations/versions/0003_routes.py").read_text()
    for table in ("results", "deltas", "totals"):
        ddl = text.partition(f"alter table {table}\n")[2].partition(";")[0]
        added = [line.split()[2] for line in ddl.splitlines() if " bigint" in line]
        assert added == list(COLUMNS)
    numbered = Ledger(**{name: place for place, name in enumerate(COLUMNS)})
    assert numbered.columns == (0, 1, 2, 3, 4, 5)


def row(model: str, dollars: int, *, backend: str = "", since: datetime = FIRST) -> PriceRow:
    return PriceRow(model=model, backend=backend, since=since, price=price(*[dollars] * 4))


LISTED = PriceList(
    [
        row("assistant", 3, since=FIRST + DAY),
        row("assistant", 2),
        row("assistant", 1, backend="gpu"),
        row("gpt", 5),
        row("gpt", 6, backend="azure"),
        row("llama", 7, backend="gpu"),
    ]
)


@pytest.mark.parametrize(
    ("model", "backend", "moment", "dollars"),
    [
        ("assistant", "", FIRST - timedelta(microseconds=1), None),
        ("assistant", "", FIRST, 2),
        ("assistant", "", FIRST + DAY - timedelta(microseconds=1), 2),
        ("assistant", "", FIRST + DAY, 3),
        ("assistant", "openai", FIRST + 9 * DAY, 3),
        ("assistant", "gpu", FIRST + 9 * DAY, 1),
        ("assistant", "gpu", FIRST - DAY, None),
        ("gpt", "azure", FIRST, 6),
        ("llama", "openai", FIRST, None),
        ("unheard-of", "", FIRST, None),
    ],
)
def test_a_price_holds_from_its_date_to_the_next(
    model: str, backend: str, moment: datetime, dollars: int | None
) -> None:
    found = LISTED.at(model, backend, moment)
    assert found == (None if dollars is None else price(*[dollars] * 4))


@pytest.mark.parametrize(
    ("model", "upstream", "backend", "own", "listed", "own_price"),
    [
        ("assistant", "gpt", "openai", False, 2, None),
        ("helper", "gpt", "openai", False, 5, None),
        ("helper", "gpt", "azure", False, 6, None),
        ("helper", "unheard-of", "openai", False, None, None),
        ("helper", None, "openai", False, None, None),
        ("assistant", "llama", "gpu", True, 2, 1),
        ("gpt", "llama", "gpu", True, 5, 7),
        ("gpt", "llama", "gpu-2", True, 5, None),
        ("llama", "llama", "gpu", True, None, 7),
    ],
)
def test_the_list_price_is_that_of_the_name_asked_for_else_of_the_upstream(
    model: str, upstream: str | None, backend: str, own: bool, listed: int | None, own_price: int
) -> None:
    quote = LISTED.quote(model, upstream=upstream, backend=backend, own=own, moment=FIRST)
    wanted = (None if d is None else price(*[d] * 4) for d in (listed, own_price))
    assert quote == Quote(listed=next(wanted), own=next(wanted))


TOML = 'model = "gpt"\nsince = 2026-11-01\ninput = 0.10\noutput = 0.5\n'


def from_toml(text: str) -> PriceSettings:
    return PriceSettings.model_validate(tomllib.loads(text))


def test_what_a_price_leaves_out_costs_as_input() -> None:
    assert from_toml(TOML).row == PriceRow(
        model="gpt", since=FIRST, price=price(0.1, 0.1, 0.1, 0.5)
    )
    full = TOML + 'backend="b"\ncached=0.01\nwritten=0.125\nlong_tokens=272000\nlong_input=2\n'
    assert from_toml(full).row == PriceRow(
        model="gpt",
        backend="b",
        since=FIRST,
        price=price(0.1, 0.01, 0.125, 0.5, long_tokens=LONG_TOKENS, long_input=Decimal(2)),
    )


@pytest.mark.parametrize(
    ("meant", "moment"),
    [
        (date(2026, 11, 1), FIRST),
        (datetime(2026, 11, 1, 2), FIRST + timedelta(hours=2)),
        (datetime(2026, 11, 1, 2, tzinfo=timezone(timedelta(hours=2))), FIRST),
        ("2026-11-01", FIRST),
        ("2026-11-01T02:00+02:00", FIRST),
    ],
)
def test_a_date_is_its_midnight_in_utc(meant: Any, moment: datetime) -> None:
    assert moment_of(meant) == moment


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"since": None}, "since", "a price needs the date since when it holds"),
        ({"since": 20261101}, "since", "a price needs the date since when it holds"),
        ({"since": "yesterday"}, "since", "expected a date"),
        ({"since": "0001-01-01T00:00+23:00"}, "since", "expected a date of this era"),
        ({"input": -1}, "input", "greater than or equal to 0"),
        ({"input": "NaN"}, "input", "finite"),
        ({"input": 10**6}, "input", "less than or equal"),
        ({"output": "1e-7"}, "output", "decimal places"),
        ({"output": "free"}, "output", "decimal"),
        ({"cached": 0.2}, "cached", "costs no more than other input"),
        ({"long_input": 2}, "long_input", "needs long_tokens"),
        ({"long_tokens": 0}, "long_tokens", "greater than"),
        ({"model": ""}, "model", "at least 1"),
        ({"model": "a\0"}, "model", "NUL"),
        ({"backend": "b" * 257}, "backend", "at most 256"),
        ({"price": 1}, "price", "not permitted"),
    ],
)
def test_a_price_that_cannot_be_is_refused_with_its_place_and_reason(
    change: dict[str, Any], place: str, reason: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        PriceSettings.model_validate(tomllib.loads(TOML) | change)
    [error] = caught.value.errors()
    assert error["loc"] == (place,)
    assert reason in error["msg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TOML.replace("since = 2026-11-01\n", ""), "prices.0.since: Value error, a price needs"),
        (TOML + 'backend = "steam"\n', "prices.0.backend: there is no backend 'steam'"),
        (TOML + f"[[prices]]\n{TOML}", "prices: 'gpt' has two from 2026-11-01 on"),
    ],
)
def test_a_file_with_a_bad_price_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "carpool.toml"
    file.write_text(f"[[prices]]\n{text}")
    with pytest.raises(ConfigurationError, match=reason):
        load(config=file)


def test_the_prices_of_a_file_are_rows(tmp_path: Path) -> None:
    file = tmp_path / "carpool.toml"
    file.write_text(f"[[prices]]\n{TOML}[[prices]]\n{TOML.replace('11-01', '12-01')}")
    assert [found.since for found in load(config=file).prices] == [FIRST, FIRST + 30 * DAY]
    assert load().prices == ()
