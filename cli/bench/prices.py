"""The prices that a benchmark's money is counted by."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from pydantic import ValidationError

from carpool.price_settings import PriceSettings
from carpool.prices import ANY, Price, PriceList, Quote
from carpool.settings import Settings, VLLMSettings
from cli.bulk.faults import BadInput


def find_prices(
    settings: Settings, models: Collection[str], given: Iterable[str]
) -> dict[str, Price]:
    """By model, where one is known: of the command line, else of the TOML file. Raises BadInput."""
    return configured_prices(settings, models) | parse_prices(given, models)


def configured_prices(settings: Settings, models: Collection[str]) -> dict[str, Price]:
    """Those that hold now. What runs on the team's own GPUs has its backend's price alone: a list
    price is what is saved there."""
    known = PriceList(settings.prices)
    found = {}
    for model in models:
        quote, own = _quote(settings, known, model)
        price = quote.own if own else quote.listed
        if price is not None:
            found[model] = price
    return found


def parse_prices(given: Iterable[str], models: Collection[str]) -> dict[str, Price]:
    """Of ``MODEL=in/out``, by model; a model's name may hold both signs. Raises BadInput."""
    found: dict[str, Price] = {}
    for text in given:
        model, _, amounts = text.rpartition("=")
        if model not in models:
            raise BadInput(f"--price: '{text}' is not MODEL=in/out of a model that is compared")
        if model in found:
            raise BadInput(f"--price: '{model}' has two")
        found[model] = _price(model, text, amounts)
    return found


def _quote(settings: Settings, known: PriceList, model: str) -> tuple[Quote, bool]:
    """And whether an own backend answers; where several may, none of them is named."""
    configured = settings.models.get(model)
    legs = () if configured is None else configured.route.legs
    if len(legs) != 1:
        return known.quote(model, upstream=None, backend=ANY), False
    own = isinstance(settings.backends[legs[0].backend], VLLMSettings)
    quote = known.quote(model, upstream=legs[0].upstream, backend=legs[0].backend, own=own)
    return quote, own


def _price(model: str, text: str, amounts: str) -> Price:
    dollars_in, _, dollars_out = amounts.partition("/")
    given = {"model": model, "since": datetime.now(UTC), "input": dollars_in, "output": dollars_out}
    try:
        return PriceSettings.model_validate(given).row.price
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BadInput(f"--price: '{text}' is not MODEL=in/out, in dollars: {reason}") from None
