"""What tokens cost, and the ledger of a request: what was paid, and by which means how much saved.

Prices are the operator's data: US dollars for a million tokens, each with the moment from which it
holds. Ledgers are in nanodollars: a token at $1 a million costs 1,000. Pure.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import Final

ANY: Final = ""
"""The backend of a price that holds wherever no price names the backend."""
NANODOLLARS: Final = 1_000_000_000
_NANODOLLARS_PER_TOKEN: Final = 1000
"""Of a token at one dollar a million."""
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
"""Holds every product of tokens, prices and tiers whole; it would raise before it lost a digit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Dollars for a million tokens.

    A request with more than ``long_tokens`` input tokens pays ``long_input`` times as much for all
    its input, cached and written too, and ``long_output`` times as much for its output.
    """

    input: Decimal
    cached: Decimal
    written: Decimal
    output: Decimal
    long_tokens: int | None = None
    long_input: Decimal = Decimal(1)
    long_output: Decimal = Decimal(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRow:
    """A price of a model, at one backend or at `ANY`, and the aware moment since when it holds."""

    model: str
    backend: str = ANY
    since: datetime
    price: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of a request as providers count them: ``cached`` and ``written`` are of ``prompt``."""

    prompt: int
    cached: int = 0
    written: int = 0
    completion: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Nanodollars of a request, or of many; the fields stand in the order of the tables' columns.

    Together they are what the same tokens would have cost live, at list price, with none cached.
    ``saved_prefix`` is negative where writes into the provider's cache cost more than reads from
    it saved, ``saved_own`` where the own backend costs more than the list price.
    """

    paid: int = 0
    saved_shared: int = 0
    saved_cache: int = 0
    saved_prefix: int = 0
    saved_window: int = 0
    saved_own: int = 0

    @property
    def columns(self) -> tuple[int, int, int, int, int, int]:
        """The fields in their order."""
        return (
            self.paid,
            self.saved_shared,
            self.saved_cache,
            self.saved_prefix,
            self.saved_window,
            self.saved_own,
        )

    @property
    def listed(self) -> int:
        """What it would have cost live, at list price, with nothing cached."""
        return sum(self.columns)

    @property
    def saved(self) -> int:
        """By all means together."""
        return self.listed - self.paid

    def for_follower(self) -> "Ledger":
        """The ledger of a request that shares the computation of the one with this ledger."""
        return Ledger(saved_shared=self.listed)

    def for_hit(self) -> "Ledger":
        """The ledger of a request that is given the stored answer of the one with this ledger."""
        return Ledger(saved_cache=self.listed)

    def __add__(self, other: "Ledger") -> "Ledger":
        pairs = zip(COLUMNS, self.columns, other.columns, strict=True)
        return Ledger(**{name: mine + theirs for name, mine, theirs in pairs})


COLUMNS: Final = tuple(Ledger.__dataclass_fields__)
"""``paid``, ``saved_shared``, …: the columns of results, deltas and totals."""
UNKNOWN: Final = Ledger()
"""Of a request without a list price: unknown, not free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """The prices of one request: the list price, and that of the own backend that answered."""

    listed: Price | None
    own: Price | None = None


class PriceList:
    """Finds the price that holds for a model, at a backend, at a moment."""

    def __init__(self, rows: Iterable[PriceRow] = ()) -> None:
        self.rows = sorted(rows, key=lambda row: (row.model, row.backend, row.since))
        self._prices: dict[tuple[str, str], tuple[list[datetime], list[Price]]] = {}
        for row in self.rows:
            moments, prices = self._prices.setdefault((row.model, row.backend), ([], []))
            moments.append(row.since)
            prices.append(row.price)

    def at(self, model: str, backend: str = ANY, moment: datetime | None = None) -> Price | None:
        """The last price that began by then (now): the backend's, else that of any backend."""
        moment = moment or datetime.now(UTC)
        price = self._holding(model, backend, moment)
        if price is None and backend != ANY:
            price = self._holding(model, ANY, moment)
        return price

    def quote(
        self,
        model: str,
        *,
        upstream: str | None,
        backend: str,
        own: bool = False,
        moment: datetime | None = None,
    ) -> Quote:
        """The prices of a request for ``model`` that ``backend`` answered as ``upstream``.

        The list price is that of the name that the client asked for, where the operator has priced
        it; else that of the name at the backend. What was answered on an own backend (``own``) has
        the list price of any backend: the price that names its backend is what it costs there.
        """
        moment = moment or datetime.now(UTC)
        names = (model,) if upstream is None else (model, upstream)
        listed = _first(self.at(name, ANY if own else backend, moment) for name in names)
        if not own:
            return Quote(listed=listed)
        return Quote(
            listed=listed, own=_first(self._holding(name, backend, moment) for name in names)
        )

    def _holding(self, model: str, backend: str, moment: datetime) -> Price | None:
        moments, prices = self._prices.get((model, backend), ((), ()))
        place = bisect_right(moments, moment)
        return prices[place - 1] if place else None


def cost(
    usage: Usage,
    listed: Price | None,
    *,
    tier: float = 1,
    own: bool = False,
    own_price: Price | None = None,
) -> Ledger:
    """The ledger of a request that was computed, by COMPAT section 5's formula.

    ``paid = tier * (uncached * input + cached * cached + written * written + completion * output)``

    where ``tier`` is what the window leaves of the price: 1 live, 0.7, 0.6 or 0.5. What cached
    input takes off, net of what its writing adds, is saved by the prefix; the rest times
    ``1 - tier`` by the window. On an ``own`` backend ``own_price`` is paid, nothing where it is
    None, and what is left of the list price is saved by owning it. Without a list price nothing is
    known: all is 0.

    10,000 input tokens, 8,000 of them cached and 1,000 written, and 2,000 output tokens of a model
    at $1, cached $0.05, written $1.25, output $5 would cost $0.02 live with nothing cached. In a
    24-hour batch (tier 0.5) they cost 0.5 * (1,000 * 1 + 8,000 * 0.05 + 1,000 * 1.25 + 2,000 * 5)
    / 1,000,000 = $0.006325; the prefix saves $0.00735 and the window $0.006325.

    Each sum is exact and is rounded once, half to even, so that the parts always make the whole.
    """
    if listed is None:
        return UNKNOWN
    with localcontext(_EXACT):
        whole = _rounded(_uncached_sum(usage, listed))
        if own:
            paid = 0 if own_price is None else _rounded(_sum(usage, own_price))
            return Ledger(paid=paid, saved_own=whole - paid)
        reduced = _sum(usage, listed)
        paid = _rounded(reduced * Decimal(str(tier)))
        rest = _rounded(reduced)
    return Ledger(paid=paid, saved_prefix=whole - rest, saved_window=rest - paid)


def _uncached_sum(usage: Usage, price: Price) -> Decimal:
    """Microdollars, live and with nothing cached."""
    of_input, of_output = _factors(usage, price)
    return usage.prompt * price.input * of_input + usage.completion * price.output * of_output


def _sum(usage: Usage, price: Price) -> Decimal:
    """Microdollars, live; who counts more cached tokens than there are is not believed."""
    cached = min(usage.cached, usage.prompt)
    written = min(usage.written, usage.prompt - cached)
    uncached = usage.prompt - cached - written
    of_input, of_output = _factors(usage, price)
    return (
        uncached * price.input + cached * price.cached + written * price.written
    ) * of_input + usage.completion * price.output * of_output


def _factors(usage: Usage, price: Price) -> tuple[Decimal | int, Decimal | int]:
    if price.long_tokens is None or usage.prompt <= price.long_tokens:
        return 1, 1
    return price.long_input, price.long_output


def _rounded(microdollars: Decimal) -> int:
    nanodollars = microdollars * _NANODOLLARS_PER_TOKEN
    return int(nanodollars.to_integral_value(ROUND_HALF_EVEN))


def _first(prices: Iterable[Price | None]) -> Price | None:
    return next((price for price in prices if price is not None), None)
