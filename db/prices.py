"""Prices as they are stored."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog

from carpool.prices import Price, PriceList, PriceRow
from db.database import Fetches

PRICES = """
select
    model, backend, since, input, cached, written, output, long_tokens, long_input, long_output
from prices
"""
PUT = """
insert into prices (
    model, backend, since, input, cached, written, output, long_tokens, long_input, long_output
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (model, backend, since) do update
set
    input = excluded.input, cached = excluded.cached, written = excluded.written,
    output = excluded.output, long_tokens = excluded.long_tokens,
    long_input = excluded.long_input, long_output = excluded.long_output
where (
    prices.input, prices.cached, prices.written, prices.output, prices.long_tokens,
    prices.long_input, prices.long_output
) is distinct from (
    excluded.input, excluded.cached, excluded.written, excluded.output, excluded.long_tokens,
    excluded.long_input, excluded.long_output
)
returning model
"""
# Routes may ask for prices, and runs remember both.
GROW = "update routing set version = version + 1"
REMOVE = "delete from prices where model = $1 and backend = $2 and since = $3 returning model"
log = structlog.get_logger()


async def ensure_prices(database: Fetches, rows: Iterable[PriceRow]) -> None:
    """Store the prices that the settings name, as they say; others stay as they are."""
    for row in rows:
        if await set_price(database, row):
            log.info("price_set", by="file", **told(row.model, row.backend, row.since))


async def list_prices(database: Fetches) -> PriceList:
    """All prices, past and future ones too."""
    return PriceList(_row(found) for found in await database.fetch(PRICES))


async def set_price(database: Fetches, row: PriceRow) -> bool:
    """Store a price in the place of one of the same model, backend and date; False for the same."""
    price = row.price
    changed = await database.fetch(
        PUT,
        *(row.model, row.backend, row.since),
        *(price.input, price.cached, price.written, price.output),
        *(price.long_tokens, price.long_input, price.long_output),
    )
    if changed:
        await database.fetch(GROW)
    return bool(changed)


async def delete_price(database: Fetches, model: str, backend: str, since: datetime) -> bool:
    """Remove the price that holds from this moment on; False where there is none."""
    deleted = await database.fetch(REMOVE, model, backend, since)
    if deleted:
        await database.fetch(GROW)
    return bool(deleted)


def told(model: str, backend: str, since: datetime) -> dict[str, str]:
    """The fields of a log line about a price."""
    return {"model": model, "backend": backend, "since": since.isoformat()}


def _row(found: Any) -> PriceRow:
    columns = dict(found)
    return PriceRow(
        model=columns.pop("model"),
        backend=columns.pop("backend"),
        since=columns.pop("since"),
        price=Price(**columns),
    )
