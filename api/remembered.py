"""Values read from Postgres and remembered for a while, each read once however many ask for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_REMEMBERED = 10_000


class Remembered(Generic[Key, Value]):
    """``load`` is asked again when a value is older than ``seconds``, or was forgotten."""

    def __init__(self, load: Callable[[Key], Awaitable[Value]], *, seconds: float) -> None:
        self._load = load
        self._seconds = seconds
        self._values: dict[Key, tuple[float, Value]] = {}
        self._loading: dict[Key, asyncio.Future[Value]] = {}

    def forget(self) -> None:
        """Read everything anew; what is being read just now may be old, and is not remembered."""
        self._values.clear()
        self._loading.clear()

    async def get(self, key: Key, *, younger_than_seconds: float | None = None) -> Value:
        """The value of a key; raises what ``load`` raises."""
        known = self._values.get(key)
        limit = self._seconds if younger_than_seconds is None else younger_than_seconds
        if known is not None and time.monotonic() - known[0] < limit:
            return known[1]
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._read(key))
        # One who gives up must not take the value from the others.
        return await asyncio.shield(loading)

    async def _read(self, key: Key) -> Value:
        me = asyncio.current_task()
        began = time.monotonic()  # a value may be as old as that
        try:
            value = await self._load(key)
            if self._loading.get(key) is me:
                if len(self._values) >= MAX_REMEMBERED:
                    self._values.clear()
                self._values[key] = (began, value)
            return value
        finally:
            if self._loading.get(key) is me:
                del self._loading[key]
