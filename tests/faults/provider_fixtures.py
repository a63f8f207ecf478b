"""A provider's double and a stack without workers, for what befalls rows on a patient way.

The workers are the tests' own: they are killed more often than a supervisor likes. A module says by
its ``WAY`` which windows the backend has.
"""

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.double.launch import Double, serving
from tests.faults.provider_rows import (
    ALARMS,
    CONFIG,
    FORGET,
    LEFT_OVER,
    NAME,
    NOTED,
    OPEN,
    SPEED,
    Way,
    until,
)
from tests.faults.worker import ENV, Worker
from tests.stack import Stack, stack_in_temporary_directory


@pytest.fixture(scope="module")
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.module.WAY
    return found


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    with serving(name=NAME) as url:
        yield url


@pytest.fixture(scope="module")
def config(provider_url: str, way: Way) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="carpool-config-"))
    file = directory / "carpool.toml"
    file.write_text(CONFIG.format(url=provider_url, way=way.settings))
    yield file
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def bare(config: Path) -> Iterator[Stack]:
    """A stack without workers."""
    options = ("--workers", "0", "--config", str(config))
    with stack_in_temporary_directory(ENV, options=options) as started:
        yield started


@pytest.fixture(scope="module")
def worker(bare: Stack, config: Path) -> Iterator[Worker]:
    started = Worker(bare, config, "patient")
    yield started
    started.end(signal.SIGTERM)


@pytest.fixture
def own(bare: Stack, config: Path) -> Iterator[Worker]:
    """A worker of the backend behind, which answers live."""
    started = Worker(bare, config, "own")
    yield started
    started.end(signal.SIGTERM)


@pytest.fixture
async def double(provider_url: str, bare: Stack, worker: Worker, way: Way) -> AsyncIterator[Double]:
    """The double, fresh, with its clock running; after the test nothing is left to be kept."""
    await bare.fetch(FORGET)
    async with Double(name=NAME, url=provider_url) as attached:
        await attached.configure(**way.double)
        await attached.auto(SPEED)
        try:
            yield attached
        finally:
            print(worker.log.read_text()[-6000:])  # shown where the test fails
        await attached.clear()
        await attached.release()
        await until(bare, OPEN, 0)
        assert await bare.value(LEFT_OVER) == 0
        assert await bare.value(NOTED) == 0
        said = worker.log.read_text()
        assert not [alarm for alarm in ALARMS if alarm in said], said[-6000:]
