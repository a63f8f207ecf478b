"""Structured logs on stderr: constant event names plus fields, never a prompt, answer or key.

Of an error its summary is logged (`cause`) and the places that it came through, not its text: that
of a driver, a provider or a bug may hold the values at hand. What libraries log goes the same way.
What repeats itself while something is away is said at once, and then now and then.
"""

import logging
import sys
import threading
import time
import traceback
from bisect import bisect
from collections.abc import Callable, Mapping
from math import inf
from types import TracebackType
from typing import Any, Final, cast
from uuid import UUID

import structlog

from carpool import tracing
from carpool.errors import CarpoolError
from carpool.ids import public_id

LIBRARY_EVENT = "library_logged"
REPEAT_SECONDS = 30.0
"""What is `REPEATED` is said once in so long, with the same words."""
REPEATED: Final = frozenset(
    {
        *("backend_unhealthy", "budget_not_reached", "claim_failed", "clean_failed"),
        *("database_away", "figures_not_read", "fold_failed", "gather_failed", "group_retried"),
        *("hand_over_failed", "heartbeat_failed", "limits_not_told", "look_failed", "not_reached"),
        *("overview_not_read", "pause_not_told", "poll_failed", "queue_not_counted", "run_failed"),
        *("sweep_failed", "turn_failed", LIBRARY_EVENT),
    }
)
"""What is said at each round of a loop while Postgres, a backend or a provider is away: states of
the process. Where such a line names one request or batch, it is said each time."""
_ONES: Final = frozenset({"request", "batch", "provider_batch"})
_PREFIXES: Final = {"request": "req_", "run": "run_", "batch": "batch_"}
_UUID_LENGTH = 36
_MOST_REMEMBERED = 1000
_MOST_FRAMES = 12
_MOST_CAUSES = 4
_MESSAGE_CHARACTERS = 300
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR)
_ONE_LINERS = frozenset({"asyncio"})
"""Their first line is constant; behind it they show objects, with what these hold."""
_TALKATIVE: Final = frozenset(
    {
        "asyncpg.exceptions._base.InterfaceError",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
    }
)
"""Beside those of the system: their text says where or what is wrong, and never what was sent."""
_POSTGRES_FIELDS: Final = ("sqlstate", "constraint_name", "table_name", "column_name")


def configure(*, as_json: bool) -> None:
    """One line an event, as JSON or for a person's eye."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            Repeats(),  # before a run, or a trace, is added to what is said
            structlog.contextvars.merge_contextvars,
            _add_trace,
            _name_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tell_error,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda told: _log_failure("thread_failed", told.exc_value)


def cause(error: BaseException) -> str:
    """What may be logged of an error, and of those that it comes from, in one line."""
    told: list[str] = []
    found: BaseException | None = error
    while found is not None and len(told) < _MOST_CAUSES:
        told.append(_summary(found))
        found = found.__cause__
    return " < ".join(told)


def _summary(error: BaseException) -> str:
    if isinstance(error, CarpoolError):
        return error.summary
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if name in _TALKATIVE or (isinstance(error, OSError) and kind.__module__ == "builtins"):
        return f"{name}: {error}".partition("\n")[0].removesuffix(": ")
    found = {field: getattr(error, field, None) for field in _POSTGRES_FIELDS}
    fields = ", ".join(f"{field} {value}" for field, value in found.items() if value)
    return f"{name} ({fields})" if fields else name


def _places(trace: TracebackType | None) -> list[str]:
    """The calls that an error came through, the innermost last."""
    frames = traceback.extract_tb(trace, limit=-_MOST_FRAMES)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _tell_error(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put an exception's summary and places where it stood."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event.setdefault("error", cause(error))
        event["places"] = _places(error.__traceback__)
    return event


class Repeats:
    """Leaves out what was said of late with the same words; the next time says how often."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._said: dict[frozenset[tuple[str, str]], tuple[float, int]] = {}

    def __call__(
        self, logger: object, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if event["event"] not in REPEATED or not event.keys().isdisjoint(_ONES):
            return event
        words = frozenset((name, text) for name, text in event.items() if isinstance(text, str))
        at, left_out = self._said.get(words, (-inf, 0))
        if self._now() - at < REPEAT_SECONDS:
            self._said[words] = (at, left_out + 1)
            raise structlog.DropEvent
        if len(self._said) >= _MOST_REMEMBERED:
            self._said.clear()
        self._said[words] = (self._now(), 0)
        return {**event, "left_out": left_out} if left_out else event


def _add_trace(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event.update(tracing.ids())
    return event


def _name_ids(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Write ids as clients and the admin API see them."""
    for field, prefix in _PREFIXES.items():
        value = event.get(field)
        if isinstance(value, str) and len(value) == _UUID_LENGTH:
            value = UUID(value)
        if isinstance(value, UUID):
            event[field] = public_id(prefix, value)
    return event


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        _log_failure("process_failed", error)


def _log_failure(event: str, error: BaseException | None) -> None:
    structlog.get_logger().error(event, exc_info=error)


class _Libraries(logging.Handler):
    """What libraries log, with numbers alone of the values that they put into it."""

    def __init__(self) -> None:
        super().__init__()
        self._log = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(
            _LEVELS[bisect(_LEVELS, record.levelno, lo=1) - 1],
            LIBRARY_EVENT,
            library=record.name,
            message=_message(record),
            exc_info=record.exc_info or None,
        )


def _message(record: logging.LogRecord) -> str:
    template = str(record.msg)
    if record.name == "py.warnings":
        return "a warning"
    if record.name in _ONE_LINERS:
        template = template.partition("\n")[0]
    arguments: Any = record.args
    if isinstance(arguments, Mapping):
        arguments = {name: _shown(value) for name, value in arguments.items()}
    elif arguments:
        arguments = tuple(_shown(value) for value in cast("tuple[object, ...]", arguments))
    try:
        message = template % arguments if arguments else template
    except (TypeError, ValueError, KeyError):
        message = template
    return message[:_MESSAGE_CHARACTERS]


def _shown(value: object) -> object:
    return value if isinstance(value, int | float) else f"<{type(value).__name__}>"
