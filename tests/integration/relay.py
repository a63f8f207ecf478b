"""A relay between a client and a Carpool, which sees each answer before the client does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0
PASSED_ON = ("content-type", "x-next-after", "x-has-more", "x-should-retry", "retry-after")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the server has done; the client does not know of it yet."""

    method: str
    path: str
    """Without query."""
    status: int
    body: bytes


Seen = Callable[[Answer], bool | None]
"""Called with each answer; True hangs up on the client instead of giving it."""


class Relay:
    """Listens on a port of its own, or on a given one."""

    def __init__(self, upstream: str, seen: Seen, port: int = 0) -> None:
        address = urlsplit(upstream)
        self.answers: list[Answer] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def relay(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                connection = HTTPConnection(
                    address.hostname or "", address.port, timeout=TIMEOUT_SECONDS
                )
                try:
                    headers = {
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() not in {"host", "connection"}
                    }
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    content = response.read()
                finally:
                    connection.close()
                answer = Answer(
                    method=self.command,
                    path=self.path.partition("?")[0],
                    status=response.status,
                    body=content,
                )
                relay.answers.append(answer)
                if seen(answer):
                    self.close_connection = True
                    return
                self.send_response(response.status)
                for name in PASSED_ON:
                    if (value := response.headers.get(name)) is not None:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = relay  # noqa: N815 - named by http.server

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """The client was killed, as the test wanted."""

        self.server = Server(("127.0.0.1", port), Handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def relaying(upstream: str, seen: Seen = lambda _: None, port: int = 0) -> Iterator[Relay]:
    """A relay for the length of the context."""
    relay = Relay(upstream, seen, port)
    thread = threading.Thread(target=relay.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.server.shutdown()
        relay.server.server_close()
        thread.join(TIMEOUT_SECONDS)
