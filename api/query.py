"""What several endpoints take in their query strings."""

from collections.abc import Collection

from starlette.datastructures import QueryParams

from carpool.errors import InvalidRequest

MAX_WAIT_SECONDS = 300.0
DEFAULT_LIMIT = 20


def wait_of(query: QueryParams) -> float:
    """``wait``: for how many seconds a connection may wait; 0 where it is not given."""
    try:
        seconds = float(query.get("wait") or 0)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidRequest(
            f"Invalid value for 'wait': expected 0 to {MAX_WAIT_SECONDS:.0f} seconds.",
            param="wait",
        )
    return seconds


def limit_of(query: QueryParams, *, most: int, default: int = DEFAULT_LIMIT) -> int:
    """``limit``: how many items a page has."""
    text = query.get("limit", str(default))
    # Python refuses to read thousands of digits.
    if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected an integer from 1 to {most}.", param="limit"
        )
    return int(text)


def choice_of(query: QueryParams, name: str, choices: Collection[str]) -> str | None:
    """One of some words; None where it is not given."""
    text = query.get(name)
    if text is not None and text not in choices:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected one of {', '.join(choices)}.", param=name
        )
    return text


def text_of(query: QueryParams, name: str) -> str | None:
    """A text that Postgres takes; None where it is not given."""
    text = query.get(name)
    if text is not None and "\0" in text:
        raise InvalidRequest(f"Invalid value for '{name}': it holds a NUL.", param=name)
    return text
