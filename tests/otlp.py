"""An OTLP receiver: a real HTTP server that takes spans as protobuf and keeps them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

WAIT_SECONDS = 30.0
KINDS = Sent.SpanKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A span as it was sent; ``parent`` is empty where it has none."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    """``SERVER``, ``CLIENT``, …"""
    service: str
    began: int
    """Nanoseconds, as is the end."""
    ended: int
    failed: bool
    attributes: dict[str, Any]
    events: int


@dataclass(kw_only=True, slots=True)
class Receiver:
    """What has come so far; ``raw`` are the bytes of all exports."""

    url: str
    spans: list[Span] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        """Keep the spans of an export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.raw += body
            self.spans += _spans(request)
            self._came.notify_all()

    def until(self, enough: Callable[[list[Span]], bool], trace: str | None = None) -> list[Span]:
        """The spans, of one trace where that is named, once they are enough; blocks."""
        with self._came:
            if self._came.wait_for(lambda: enough(self._of(trace)), WAIT_SECONDS):
                return self._of(trace)
        raise AssertionError([span.name for span in self._of(trace)])

    def _of(self, trace: str | None) -> list[Span]:
        return [span for span in self.spans if trace in (None, span.trace)]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of its own, which lives as long as the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    receiver = Receiver(url=f"http://127.0.0.1:{server.server_port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces", self.path
            receiver.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Nothing is printed."""

    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = {a.key: a.value.string_value for a in resource.resource.attributes}
        for scope in resource.scope_spans:
            for sent in scope.spans:
                yield Span(
                    name=sent.name,
                    trace=sent.trace_id.hex(),
                    id=sent.span_id.hex(),
                    parent=sent.parent_span_id.hex(),
                    kind=KINDS.Name(sent.kind).removeprefix("SPAN_KIND_"),
                    service=service["service.name"],
                    began=sent.start_time_unix_nano,
                    ended=sent.end_time_unix_nano,
                    failed=sent.status.code == Status.STATUS_CODE_ERROR,
                    attributes={a.key: _value(a.value) for a in sent.attributes},
                    events=len(sent.events),
                )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
