"""Legs as an operator writes and reads them: ``openai=gpt-6-luna,after=20s,class=flex+batch``."""

from collections.abc import Callable

import msgspec

from carpool.routing import Leg, Route, RouteError
from carpool.windows import format_seconds, parse_seconds

NAMES = {
    "class": "classes",
    "team": "teams",
    "share": "share",
    "after": "after_seconds",
    "left": "left_seconds",
    "max-price": "max_price",
}
SEPARATOR = "+"


def parse_leg(text: str) -> Leg:
    """``BACKEND[=UPSTREAM][,CONDITION=VALUE]…``; raises RouteError with what is wrong."""
    head, *conditions = text.split(",")
    backend, _, upstream = head.partition("=")
    fields: dict[str, object] = {"backend": backend}
    if upstream:
        fields["upstream"] = upstream
    for condition in conditions:
        name, _, value = condition.partition("=")
        if name not in NAMES:
            raise RouteError(
                f"Unknown condition '{name}' of '{text}'; there are: {', '.join(NAMES)}."
            )
        fields[NAMES[name]] = _value(name, value)
    try:
        return msgspec.convert(fields, Leg)
    except msgspec.ValidationError as error:
        raise RouteError(f"'{text}' is no leg: {error}.") from None


def format_leg(leg: Leg) -> str:
    """The text of a leg, from which `parse_leg` makes it again."""
    parts = [leg.backend if leg.upstream is None else f"{leg.backend}={leg.upstream}"]
    if leg.classes is not None:
        parts.append(f"class={SEPARATOR.join(leg.classes)}")
    if leg.teams is not None:
        parts.append(f"team={SEPARATOR.join(leg.teams)}")
    if leg.share is not None:
        parts.append(f"share={leg.share:g}%")
    if leg.after_seconds is not None:
        parts.append(f"after={format_seconds(leg.after_seconds)}")
    if leg.left_seconds is not None:
        parts.append(f"left={format_seconds(leg.left_seconds)}")
    if leg.max_price is not None:
        parts.append(f"max-price={leg.max_price:g}")
    return ",".join(parts)


def format_route(route: Route) -> str:
    """A route on a line, its legs in their order."""
    if route.alias is not None:
        text = f"as {route.alias}"
    else:
        text = " | ".join(format_leg(leg) for leg in route.legs) or "nothing"
    if route.cache_seconds:
        text += f" (answers kept {format_seconds(route.cache_seconds)})"
    return text


def _value(name: str, value: str) -> object:
    if name in ("class", "team"):
        return value.split(SEPARATOR)
    if name in ("after", "left"):
        return _number(parse_seconds, value)
    return _number(float, value.removesuffix("%"))


def _number(read: Callable[[str], float], value: str) -> float:
    try:
        return read(value)
    except ValueError as error:
        raise RouteError(f"{error}.") from None
