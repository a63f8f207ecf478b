"""Spans by OpenTelemetry's SDK, sent over OTLP by a thread that no request waits for.

What cannot be sent is dropped: the queue is bounded, and so is each try to send.
"""

import os
import threading
import time
from asyncio import CancelledError
from contextvars import Token
from typing import Self

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.span import format_span_id, format_trace_id

from carpool import __version__
from carpool.errors import ConfigurationError
from carpool.tracing import Attributes, Kind, Span, parse

SEND_SECONDS = 5.0
QUEUE_SPANS = 8192
"""How many may wait to be sent, about 16 MB; the SDK's own 2,048 are the work of half a second."""
ERROR_TYPE = "error.type"
_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
    Kind.CONSUMER: SpanKind.CONSUMER,
}


class OpenTelemetry:
    """Records spans of this process; the environment's ``OTEL_*`` variables go before what is said
    here."""

    def __init__(self, service: str) -> None:
        resource = {"service.version": __version__, "service.instance.id": f"{os.getpid()}"}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            resource["service.name"] = f"carpool-{service}"
        timeout = None if _is_set("OTEL_EXPORTER_OTLP_TIMEOUT") else SEND_SECONDS
        queue = None if _is_set("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE_SPANS
        try:
            processor = BatchSpanProcessor(OTLPSpanExporter(timeout=timeout), max_queue_size=queue)
            self._provider = TracerProvider(
                resource=Resource.create(resource), shutdown_on_exit=False
            )
        except ValueError as error:
            raise ConfigurationError(f"the environment's OTEL_* variables: {error}") from error
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("carpool", __version__)

    def span(
        self, name: str, attributes: Attributes, kind: Kind, parent: str | None, began: float | None
    ) -> Span:
        """See `carpool.tracing.span`."""
        return _Span(
            self._tracer.start_span(
                name,
                context=_context(parent),
                kind=_KINDS[kind],
                attributes=attributes,
                start_time=None if began is None else _nanoseconds(began),
            )
        )

    def current(self) -> Span:
        """See `carpool.tracing.current`."""
        return _Span(trace.get_current_span())

    def ids(self) -> dict[str, str]:
        """See `carpool.tracing.ids`."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace_id": format_trace_id(found.trace_id),
            "span_id": format_span_id(found.span_id),
        }

    def stop(self, seconds: float) -> None:
        """Send what is left; the SDK would wait for half a minute for a receiver that is away."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(seconds)


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._failed = False
        self._token: Token[Context] | None = None

    @property
    def traceparent(self) -> str | None:
        found = self._span.get_span_context()
        if not found.is_valid:
            return None
        ids = f"{format_trace_id(found.trace_id)}-{format_span_id(found.span_id)}"
        return f"00-{ids}-{found.trace_flags:02x}"

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            contexts.detach(self._token)
        if not self._failed and isinstance(raised := error[1], BaseException):
            cancelled = isinstance(raised, CancelledError)
            self.fail("cancelled" if cancelled else type(raised).__qualname__)
        self._span.end()

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, kind: str) -> None:
        self._failed = True
        self._span.set_attribute(ERROR_TYPE, kind)
        self._span.set_status(StatusCode.ERROR)


def _context(parent: str | None) -> Context | None:
    """The context of a parent in another process; None is the current one."""
    found = parse(parent)
    if found is None:
        return None
    remote = SpanContext(
        found.trace, found.span, is_remote=True, trace_flags=TraceFlags(found.flags)
    )
    return trace.set_span_in_context(NonRecordingSpan(remote), Context())


def _nanoseconds(moment: float) -> int:
    # Clocks of two machines may disagree; no span ends before it began.
    return int(min(moment, time.time()) * 1e9)


def _is_set(name: str) -> bool:
    traces = name.replace("OTLP_", "OTLP_TRACES_")
    return bool(os.environ.get(name) or os.environ.get(traces))
