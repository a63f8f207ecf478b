"""Lines of a file that is read in pieces, split at newlines before anything is decoded."""

from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line that is not blank."""

    number: int
    """1-based, blank lines counted."""
    end: int
    """Offset of the byte after its newline: where reading may begin anew."""
    text: bytes
    """Without newline and surrounding blanks; cut where the line is too long."""
    too_long: bool


class Lines:
    """Splits pieces into lines; CRLF, blank lines, a BOM and a last line without newline are fine.

    Memory stays flat: of a line over ``limit_bytes`` no more than that is kept.
    """

    def __init__(self, *, limit_bytes: int, number: int = 0, offset: int = 0) -> None:
        """``number`` and ``offset``: the last line read before, and where this reading begins."""
        self._limit = limit_bytes
        self._number = number
        self._offset = offset
        self._begun = b""
        self._length = 0
        """Of the line that has begun, with what was not kept of it."""

    def feed(self, piece: bytes) -> list[Line]:
        """The lines that end in this piece."""
        whole, newline, rest = piece.rpartition(b"\n")
        found: list[Line] = []
        if newline:
            for text in whole.split(b"\n"):
                if self._length:
                    self._keep(text)
                    self._end(found, self._begun, self._length, newline=1)
                    self._begun, self._length = b"", 0
                else:
                    self._end(found, text, len(text), newline=1)
        self._keep(rest)
        return found

    def finish(self) -> list[Line]:
        """The last line, where no newline ends it."""
        found: list[Line] = []
        if self._length:
            self._end(found, self._begun, self._length, newline=0)
        return found

    def _keep(self, text: bytes) -> None:
        self._begun += text[: self._limit - len(self._begun)]
        self._length += len(text)

    def _end(self, found: list[Line], text: bytes, length: int, *, newline: int) -> None:
        self._number += 1
        self._offset += length + newline
        if self._number == 1:
            text = text.removeprefix(BOM)
        stripped = text.strip()
        if stripped:
            found.append(Line(self._number, self._offset, stripped, length > self._limit))
