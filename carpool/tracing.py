"""Traces of requests over all processes; nothing is done where no OTLP receiver is set.

They are on where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, and obey the other ``OTEL_*`` variables of
OpenTelemetry's SDK. The SDK is imported by `start` alone, and no span holds anything of a prompt,
an answer or a key: attributes are names, ids and numbers that Carpool itself has made or checked.
"""

import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol, Self

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_SECONDS = 2.0
"""How long a process that ends waits for its last spans to be taken."""

Attributes = Mapping[str, str | int | float | bool]

# W3C Trace Context, level 1: of a later version, what follows is ignored.
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-[\x20-\x7e]*)?"
)
_MAX_LENGTH = 512


class Kind(Enum):
    """What a span is to its neighbours; the values are those of OpenTelemetry's SpanKind."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    CONSUMER = 4


class Span(Protocol):
    """Something that takes time; the current one, and the parent of others, within its context."""

    @property
    def traceparent(self) -> str | None:
        """By which another process makes it a parent; None where tracing is off."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None:
        """End it; as failed with what was raised, unless it was told how."""

    def name(self, name: str) -> None:
        """Give it another name."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, kind: str) -> None:
        """End as an error, of a kind that is one of few: a status, or an exception's name."""


class Recorder(Protocol):
    """What `start` makes of the SDK (see `carpool.spans`)."""

    def span(
        self, name: str, attributes: Attributes, kind: Kind, parent: str | None, began: float | None
    ) -> Span: ...

    def current(self) -> Span: ...

    def ids(self) -> dict[str, str]: ...

    def stop(self, seconds: float) -> None: ...


class Parent(NamedTuple):
    """What a traceparent says."""

    trace: int
    span: int
    flags: int


class NoSpan:
    """What stands in for a span while tracing is off."""

    traceparent = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def name(self, name: str) -> None: ...

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, kind: str) -> None: ...


NO_SPAN = NoSpan()
_recorder: Recorder | None = None


def on() -> bool:
    """Whether spans are recorded: where not, no attributes need to be gathered."""
    return _recorder is not None


def start(service: str) -> None:
    """Begin to record, where the environment names a receiver; raises ConfigurationError."""
    global _recorder
    if _recorder is None and wanted(os.environ):
        from carpool.spans import OpenTelemetry

        _recorder = OpenTelemetry(service)


def stop() -> None:
    """Record no more. Blocks while the last spans are sent, for at most `FLUSH_SECONDS`."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.stop(FLUSH_SECONDS)


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether an environment asks for traces, as OpenTelemetry's specification reads it."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(environment.get(name, "").strip() for name in ENDPOINTS)


def span(
    name: str,
    attributes: Attributes,
    *,
    kind: Kind = Kind.INTERNAL,
    parent: str | None = None,
    began: float | None = None,
) -> Span:
    """A span that begins now, or began at a moment of `time.time`.

    Its parent is the one that a traceparent names, else the current span, if any.
    """
    if _recorder is None:
        return NO_SPAN
    return _recorder.span(name, attributes, kind, parent, began)


def current() -> Span:
    """The span in whose context this is called."""
    return NO_SPAN if _recorder is None else _recorder.current()


def headers() -> dict[str, str]:
    """What to send to another server, so that its spans become children of the current one."""
    traceparent = current().traceparent
    return {} if traceparent is None else {"traceparent": traceparent}


def ids() -> dict[str, str]:
    """The current span's ids, as logs show them; empty where there is none."""
    return {} if _recorder is None else _recorder.ids()


def parse(traceparent: str | None) -> Parent | None:
    """What a traceparent says; None for one that is not valid, which counts as none."""
    if traceparent is None or len(traceparent) > _MAX_LENGTH:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["rest"]):
        return None
    parent = Parent(int(found["trace"], 16), int(found["span"], 16), int(found["flags"], 16))
    return parent if parent.trace and parent.span else None
