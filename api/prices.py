"""`/admin/v1/prices`: what tokens cost, and from which date on; for admins."""

from datetime import datetime
from typing import Any

import structlog
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.bodies import read_body
from api.responses import JSON
from api.services import Services
from carpool.errors import InvalidRequest, NotFound
from carpool.price_settings import PriceSettings, fault_of, moment_of
from carpool.prices import ANY, PriceRow
from db.prices import delete_price, list_prices, set_price, told

log = structlog.get_logger()


async def list_all(request: Request) -> Response:
    """``GET``: all prices, past and future ones too, by model, backend and date."""
    services: Services = request.app.state.services
    await admin_of(request)
    found = await list_prices(services.database)
    return JSON({"object": "list", "data": [_price_object(row) for row in found.rows]})


async def put(request: Request) -> Response:
    """``PUT``: store a price in the place of one of the same model, backend and date."""
    services: Services = request.app.state.services
    identity = await admin_of(request)
    raw = await read_body(
        request,
        limit_bytes=services.settings.max_body_bytes,
        stall_seconds=services.settings.stall_seconds,
    )
    row = _read(raw)
    if await set_price(services.database, row):
        log.info("price_set", by=str(identity.key_id), **told(row.model, row.backend, row.since))
    return JSON(_price_object(row))


async def delete(request: Request) -> Response:
    """``DELETE ?model=&backend=&since=``: the price of before holds again."""
    services: Services = request.app.state.services
    identity = await admin_of(request)
    query = request.query_params
    model, backend, since = _given(query, "model"), query.get("backend", ANY), _since(query)
    if "\0" in model + backend or not await delete_price(services.database, model, backend, since):
        raise NotFound("There is no price of this model, at this backend, from this date on.")
    log.info("price_deleted", by=str(identity.key_id), **told(model, backend, since))
    return JSON({"object": "price", "deleted": True, **told(model, backend, since)})


def _read(raw: bytes) -> PriceRow:
    try:
        return PriceSettings.model_validate_json(raw).row
    except ValidationError as error:
        param, reason = fault_of(error)
    if param is None:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request. ({reason})", code="invalid_json"
        )
    raise InvalidRequest(
        f"Invalid value for '{param}': {reason}.", param=param, code="invalid_value"
    )


def _given(query: QueryParams, name: str) -> str:
    try:
        return query[name]
    except KeyError:
        raise InvalidRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        ) from None


def _since(query: QueryParams) -> datetime:
    try:
        return moment_of(_given(query, "since"))
    except ValueError as error:
        raise InvalidRequest(
            f"Invalid value for 'since': {error}.", param="since", code="invalid_value"
        ) from None


def _price_object(row: PriceRow) -> dict[str, Any]:
    """Dollars for a million tokens; ``backend`` is empty where it is any."""
    price = row.price
    return {
        "object": "price",
        **told(row.model, row.backend, row.since),
        "currency": "USD",
        "input": float(price.input),
        "cached": float(price.cached),
        "written": float(price.written),
        "output": float(price.output),
        "long_tokens": price.long_tokens,
        "long_input": float(price.long_input),
        "long_output": float(price.long_output),
    }
