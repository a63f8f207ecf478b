"""A whole Carpool over a real vLLM, shared by the tests that do it no harm."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from tests.stack import Stack, eventually, stack_in_temporary_directory
from tests.vllm.tiny_model import build

START_SECONDS = 500.0
"""An engine takes 20 to 60 to start, and on a slow machine many times as long."""
ARGUMENTS = "--enforce-eager --dtype bfloat16 --max-model-len 2048 --max-num-seqs 128"


def vllm_environment(model: Path) -> dict[str, str]:
    """What lets `carpool up` serve a model on the CPU."""
    return {
        "CARPOOL_VLLM_MODEL": str(model),
        "CARPOOL_VLLM_ARGS": ARGUMENTS,
        "CARPOOL_METRICS_PORT": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


async def served(stack: Stack) -> None:
    """Wait for the engine; requests would wait for it too, but stock clients time out."""

    async def serves() -> bool:
        return bool(await stack.value("select count(*) from runs where ended_at is null"))

    await eventually(serves, START_SECONDS)


@pytest.fixture(scope="session")
def tiny_model() -> Iterator[Path]:
    """The directory of the tiny model, whose last part is its name."""
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    yield build(directory / "tiny")
    rmtree(directory)


@pytest.fixture(scope="package")
def stack(tiny_model: Path) -> Iterator[Stack]:
    """`carpool up` with the tiny model; ready before its engine is, which takes its time."""
    with stack_in_temporary_directory(vllm_environment(tiny_model)) as started:
        yield started
