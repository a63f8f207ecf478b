"""Who waits for a backend waits for a moment to come, never for one that has passed."""

import asyncio

import pytest

from carpool.errors import PassingError
from workers import readiness
from workers.backends.protocol import Backend
from workers.breaker import FAILURES, PAUSE_SECONDS
from workers.readiness import Readiness


class Clock:
    """A monotonic clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Sick(Backend):
    """A backend that cannot be reached; nothing else is asked of it."""

    name = "sick"

    async def health(self) -> None:
        raise PassingError("away", status=503)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(readiness, "time", made)
    return made


def given_up() -> Readiness:
    """The readiness of a backend that only failed."""

    async def turned(accepts: bool) -> None:
        raise AssertionError(accepts)

    made = Readiness(Sick(), health_seconds=0.01, turned=turned, died=lambda error: None)  # type: ignore[abstract]
    for _ in range(FAILURES):
        made.met(PassingError("failed", status=500))
    return made


def test_until_the_probe_one_waits_and_then_no_longer(clock: Clock) -> None:
    """A wait of nothing would be had again and again by a run that knows of nothing to claim."""
    found = given_up()
    assert (found.allowance(5), found.pause_seconds) == (0, PAUSE_SECONDS)
    clock.now += PAUSE_SECONDS
    assert (found.allowance(5), found.pause_seconds) == (1, None)
    found.started(1)
    assert (found.allowance(5), found.pause_seconds) == (0, PAUSE_SECONDS)


async def test_what_its_health_check_refuses_no_pause_brings(clock: Clock) -> None:
    found = given_up()
    checking = asyncio.create_task(found.check())
    clock.now += PAUSE_SECONDS
    async with asyncio.timeout(10):
        while found.allowance(1):  # noqa: ASYNC110 - health checks have no event
            await asyncio.sleep(0.001)
    assert found.pause_seconds is None
    checking.cancel()
