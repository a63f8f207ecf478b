"""Server-sent events, as a stream of bytes becomes frames (WHATWG HTML, section 9.2)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

DONE = b"[DONE]"

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Frame:
    """One event; ``data`` is what its ``data:`` lines hold, joined by newlines."""

    event: bytes
    data: bytes


class FrameReader:
    """Takes bytes as they arrive, cut anywhere, and gives the frames that are complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[Frame]:
        received = self._rest + received
        half_line_end = received.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(received[:-1] if half_line_end else received)
        if half_line_end:
            self._rest += b"\r"
        for line in lines:
            yield from self._line(line)

    def finish(self) -> Iterator[Frame]:
        """The last frame, of a sender that leaves out the empty line at the end."""
        yield from self.feed(b"\n\n")

    def _line(self, line: bytes) -> Iterator[Frame]:
        if not line:
            if self._data:
                yield Frame(self._event, b"\n".join(self._data))
            self._event, self._data = b"", []
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
