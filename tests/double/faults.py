"""What the double is told to do wrong, and for how long."""

from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

import msgspec


class Fault(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Of a request to `/v1/…`."""

    path: str
    """A pattern, where ``*`` stands for anything: ``/v1/files/*/content``."""
    method: str = "*"
    holding: str = ""
    """A part of the request's body."""
    times: int | None = 1
    """For so many requests; None: until it is cleared."""
    status: int | None = None
    body: str | None = None
    headers: dict[str, str] = {}
    reset: bool = False
    cut_after_chunks: int | None = None
    cut_after_bytes: int | None = None
    hang: bool = False
    hang_after_chunks: int | None = None
    delay_seconds: float = 0.0


class LineFault(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Of a line of a batch, when it is computed or written out."""

    holding: str
    """A part of the line as it was uploaded, its custom_id or its body."""
    times: int | None = 1
    status: int | None = None
    body: str | None = None
    code: str | None = None
    text: str | None = None
    missing: bool = False
    doubled: bool = False


class ResponseFault(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Of a response, chosen when it is created."""

    holding: str
    """A part of the body that created it, its metadata included."""
    times: int | None = 1
    code: str | None = None
    message: str = "The response failed."
    incomplete: str | None = None
    stall: bool = False


class BatchFault(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Of a batch, chosen when it is created."""

    holding: str = ""
    """A part of the body that created it, its metadata included."""
    times: int | None = 1
    code: str | None = None
    message: str = "The batch was refused."
    stall_after: int | None = None
    unknown_lines: int = 0


class _Counted(Protocol):
    @property
    def times(self) -> int | None: ...


_F = TypeVar("_F", bound=_Counted)
AnyFault = Fault | LineFault | BatchFault | ResponseFault


class Faults:
    """Those in force, the oldest first; each is taken as often as it says."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[AnyFault, int | None]] = {}
        self._last = 0

    def add(self, fault: AnyFault) -> int:
        self._last += 1
        self._left[self._last] = (fault, fault.times)
        return self._last

    def clear(self, number: int | None = None) -> None:
        """One, or all."""
        if number is None:
            self._left.clear()
        else:
            self._left.pop(number, None)

    def of_request(self, method: str, path: str, body: bytes) -> Fault | None:
        for number, (fault, _) in self._left.items():
            if (
                isinstance(fault, Fault)
                and fnmatchcase(path, fault.path)
                and fnmatchcase(method, fault.method)
                and fault.holding.encode() in body
            ):
                self._count(number)
                return fault
        return None

    def of_line(self, line: bytes) -> LineFault | None:
        for number, (fault, _) in self._left.items():
            if isinstance(fault, LineFault) and fault.holding.encode() in line:
                self._count(number)
                return fault
        return None

    def of_batch(self, body: bytes) -> BatchFault | None:
        for number, (fault, _) in self._left.items():
            if isinstance(fault, BatchFault) and fault.holding.encode() in body:
                self._count(number)
                return fault
        return None

    def of_response(self, body: bytes) -> ResponseFault | None:
        for number, (fault, _) in self._left.items():
            if isinstance(fault, ResponseFault) and fault.holding.encode() in body:
                self._count(number)
                return fault
        return None

    def _count(self, number: int) -> None:
        fault, left = self._left[number]
        if left is None:
            return
        if left > 1:
            self._left[number] = (fault, left - 1)
        else:
            del self._left[number]
