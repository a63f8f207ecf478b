"""What the double was asked, so that a test can prove what was paid."""

import asyncio
from collections import Counter
from fnmatch import fnmatchcase

import msgspec

_HELD_BYTES = 1024 * 1024
"""Of a body; more, as of an uploaded file, is not kept: the file has it."""


class Call(msgspec.Struct, kw_only=True):
    """One request to `/v1/…`, noted before anything was done for it."""

    method: str
    path: str
    """Without query."""
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: str
    """Empty for uploads."""
    status: int | None = None
    """None for as long as nothing has been answered, or where nothing was."""

    def json(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])


class SeenBatch(msgspec.Struct, kw_only=True):
    """One batch that was created."""

    id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    input_file_id: str
    status: str
    custom_ids: list[str]
    """Those of the input file in its order, once it was found valid."""


class SeenResponse(msgspec.Struct, kw_only=True):
    """One response that was created."""

    id: str
    completion_window: str
    metadata: dict[str, str] | None
    status: str
    paid: bool
    """Whether it was computed."""
    deleted: bool


class Seen(msgspec.Struct, kw_only=True):
    """All of it, in the order in which it came."""

    calls: list[Call]
    batches: list[SeenBatch]
    responses: list[SeenResponse]
    lines: dict[str, int]
    """How often the line of a custom_id was computed, over all batches: the paid ones."""
    held: int
    """Requests that hang now."""
    most_open: int
    """How many responses were open at once, at most."""

    def of(self, path: str, method: str = "*") -> list[Call]:
        """The calls of a path, which is a pattern as in `Fault`."""
        return [call for call in self.calls if matches(call, path, method)]


def matches(call: Call, path: str, method: str) -> bool:
    return fnmatchcase(call.path, path) and fnmatchcase(call.method, method)


class Record:
    """Calls, computed lines, the requests that hang, and those who wait for any of it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.lines: Counter[str] = Counter()
        self.held = 0
        self._changed = asyncio.Event()
        self._released = asyncio.Event()

    def note(self, call: Call) -> None:
        self.calls.append(call)
        self._wake()

    async def hold(self) -> None:
        """Hang until the next `release`; cancelled where the client goes away."""
        self.held += 1
        self._wake()
        try:
            await self._released.wait()
        finally:
            self.held -= 1

    def release(self) -> None:
        """Let those go on that hang now."""
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def until(self, path: str, method: str, count: int) -> None:
        """Return once so many calls came."""
        looked = found = 0
        while True:
            found += sum(matches(call, path, method) for call in self.calls[looked:])
            looked = len(self.calls)
            if found >= count:
                return
            await self._changed.wait()

    async def until_held(self, count: int) -> None:
        """Return once so many requests hang."""
        while self.held < count:
            await self._changed.wait()

    def forget(self) -> None:
        self.calls = []
        self.lines.clear()

    def _wake(self) -> None:
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()


def kept(body: bytes, content_type: str) -> str:
    """The body as it is recorded."""
    if len(body) > _HELD_BYTES or content_type.startswith("multipart/"):
        return ""
    return body.decode(errors="replace")
