"""The backends under test, each started once, in the event loop of the tests that use them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance import harness as harnesses
from tests.conformance.harness import Harness
from tests.conformance.provider import Provider


@pytest.fixture(
    params=[
        "simulated",
        "openai",
        pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(1200)]),
    ]
)
def backend(request: pytest.FixtureRequest) -> Harness:
    found = request.getfixturevalue(request.param)
    harness: Harness = found[0] if request.param == "openai" else found
    return harness


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def simulated() -> AsyncIterator[Harness]:
    async with harnesses.simulated() as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openai() -> AsyncIterator[tuple[Harness, Provider]]:
    async with harnesses.openai() as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(vllm_environment: None, tiny_model: Path) -> AsyncIterator[Harness]:
    async with harnesses.vllm(str(tiny_model)) as started:
        yield started


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.vllm import tiny_model

    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def vllm_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        yield
