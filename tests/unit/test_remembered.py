"""A value is read once however many ask for it, and not again until it is old or forgotten."""

import asyncio
from typing import NamedTuple

import pytest

from api import remembered
from api.remembered import Remembered


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Source:
    """Counts what is read, and lets a read wait until the test lets it go."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def load(self, key: str) -> str:
        self.reads.append(key)
        value = f"{key} {len(self.reads)}"
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return value


class Parts(NamedTuple):
    clock: Clock
    source: Source
    values: Remembered[str, str]


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    clock, source = Clock(), Source()
    monkeypatch.setattr(remembered, "time", clock)
    return Parts(clock, source, Remembered(source.load, seconds=5))


async def asked(parts: Parts, count: int) -> list[asyncio.Task[str]]:
    """Tasks that all wait for one key."""
    tasks = [asyncio.create_task(parts.values.get("a")) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_a_value_is_read_again_when_it_is_old(parts: Parts) -> None:
    assert await parts.values.get("a") == "a 1"
    parts.clock.now += 4.9
    assert await parts.values.get("a") == "a 1"
    parts.clock.now += 0.2
    assert await parts.values.get("a") == "a 2"


async def test_a_value_is_as_old_as_the_beginning_of_its_reading(parts: Parts) -> None:
    """A key that is revoked while it is read is not remembered for longer than others."""
    parts.source.go.clear()
    [reading] = await asked(parts, 1)
    parts.clock.now += 3
    parts.source.go.set()
    assert await reading == "a 1"
    parts.clock.now += 1.9
    assert await parts.values.get("a") == "a 1"
    parts.clock.now += 0.2
    assert await parts.values.get("a") == "a 2"


async def test_who_wants_it_younger_gets_it_younger(parts: Parts) -> None:
    await parts.values.get("a")
    parts.clock.now += 1
    assert await parts.values.get("a", younger_than_seconds=2) == "a 1"
    assert await parts.values.get("a", younger_than_seconds=0.5) == "a 2"
    assert await parts.values.get("a") == "a 2"


async def test_each_key_has_its_own_value(parts: Parts) -> None:
    assert [await parts.values.get(key) for key in "aba"] == ["a 1", "b 2", "a 1"]


async def test_many_that_ask_at_once_are_one_read(parts: Parts) -> None:
    parts.source.go.clear()
    tasks = await asked(parts, 50)
    parts.source.go.set()
    assert set(await asyncio.gather(*tasks)) == {"a 1"}
    assert parts.source.reads == ["a"]


async def test_one_that_gives_up_leaves_the_value_to_the_others(parts: Parts) -> None:
    parts.source.go.clear()
    first, second = await asked(parts, 2)
    first.cancel()
    parts.source.go.set()
    assert await second == "a 1"
    assert await parts.values.get("a") == "a 1"


async def test_a_read_that_all_have_given_up_is_still_remembered(parts: Parts) -> None:
    parts.source.go.clear()
    [only] = await asked(parts, 1)
    only.cancel()
    parts.source.go.set()
    assert await parts.values.get("a") == "a 1"
    assert parts.source.reads == ["a"]


async def test_a_failure_reaches_all_and_is_not_remembered(parts: Parts) -> None:
    parts.source.go.clear()
    parts.source.error = OSError("away")
    tasks = await asked(parts, 3)
    parts.source.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError] * 3
    parts.source.error = None
    assert await parts.values.get("a") == "a 2"


async def test_what_was_forgotten_is_read_again(parts: Parts) -> None:
    await parts.values.get("a")
    parts.values.forget()
    assert await parts.values.get("a") == "a 2"


async def test_what_was_being_read_when_all_was_forgotten_is_not_remembered(parts: Parts) -> None:
    """It may have been read before the change that the forgetting is about."""
    parts.source.go.clear()
    [before] = await asked(parts, 1)
    parts.values.forget()
    [after] = await asked(parts, 1)
    parts.source.go.set()
    assert (await before, await after) == ("a 1", "a 2")
    assert await parts.values.get("a") == "a 2"


async def test_the_memory_has_an_end(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_REMEMBERED", 3)
    for key in "abcd":
        await parts.values.get(key)
    assert await parts.values.get("d") == "d 4"
    assert await parts.values.get("a") == "a 5"
