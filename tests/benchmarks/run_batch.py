"""Row 8: ``python -m tests.benchmarks.run_batch``: Carpool beside ``vllm run-batch``, same files.

Both with a tiny model on the CPU and the same arguments of the engine. Carpool's engine is warm; of
``vllm run-batch`` the time of a file of a few lines, its start that is, is taken off. Needs vLLM.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.batch import Json, run_round
from tests.benchmarks.chat import Target
from tests.benchmarks.stack import Carpool, directory
from tests.stack import Stack, eventually, stack_in_temporary_directory
from tests.vllm.tiny_model import TEXT, build

LINES = 2000
ROUNDS = 3
GROUPS = 20
ENGINE = (
    *("--enforce-eager", "--dtype", "bfloat16"),
    *("--max-model-len", "2048", "--max-num-seqs", "256"),
)
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
START_SECONDS = 170.0
RUN_BATCH = "vllm.entrypoints.openai.run_batch"
"""What ``vllm run-batch`` runs; the command itself does not start with the CPU's distribution."""


def main() -> int:
    """Measure both files, and print a table."""
    files: dict[str, Callable[[int], Iterable[Json]]] = {
        "short chats": short_chats,
        "shared prefixes": shared_prefixes,
    }
    table = Table("file", "Carpool", "vllm run-batch", "×", title=f"Row 8: {LINES} lines, seconds")
    with directory() as path:
        model = build(path / "tiny")
        # Of each round its own, so that no cache holds what the round before has left.
        rounds = [
            {name: _bytes(make(seed)) for name, make in files.items()} for seed in range(ROUNDS)
        ]
        few = _bytes(list(short_chats(ROUNDS))[:8])
        ours: dict[str, list[float]] = {name: [] for name in files}
        theirs: dict[str, list[float]] = {name: [] for name in files}
        with _carpool(model) as carpool:
            run_round(carpool, few)
            for data in rounds:
                for name in files:
                    done = run_round(carpool, data[name])
                    assert done.completed == LINES
                    ours[name].append(done.seconds)
        for data in rounds:
            start = _run_batch(model, few, path)
            for name in files:
                theirs[name].append(_run_batch(model, data[name], path) - start)
    for name in files:
        mine, other = median(ours[name]), median(theirs[name])
        table.add_row(name, _times(ours[name]), _times(theirs[name]), f"{other / mine:.2f}")
    Console(width=120).print(table)
    return 0


def short_chats(seed: int) -> Iterator[Json]:
    """Prompts of some twenty words that have nothing in common, answers of 32 tokens."""
    words = random.Random(seed)
    for _ in range(LINES):
        yield _chat(" ".join(words.choices(TEXT.split(), k=20)), 32)


def shared_prefixes(seed: int) -> list[Json]:
    """Twenty long beginnings, each shared by a hundred lines; in no order."""
    words = random.Random(seed)
    beginnings = [" ".join(words.choices(TEXT.split(), k=300)) for _ in range(GROUPS)]
    chats = [
        _chat(f"{beginnings[number % GROUPS]} {' '.join(words.choices(TEXT.split(), k=5))}", 8)
        for number in range(LINES)
    ]
    words.shuffle(chats)
    return chats


def _chat(text: str, tokens: int) -> Json:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def _bytes(chats: Iterable[Json]) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        ).encode()
        + b"\n"
        for number, body in enumerate(chats)
    )


@contextmanager
def _carpool(model: Path) -> Iterator[Carpool]:
    """A stack whose engine serves."""
    environment = ENVIRONMENT | {
        "CARPOOL_VLLM_MODEL": str(model),
        "CARPOOL_VLLM_ARGS": " ".join(ENGINE),
    }
    with stack_in_temporary_directory(environment, prepared=False) as stack:
        asyncio.run(_until_served(stack))
        port = urlsplit(stack.base_url).port
        assert port is not None
        yield Carpool(
            target=Target(port=port, key=stack.api_key),
            database_url=stack.database_url,
            process=psutil.Process(stack.process.pid),
        )


async def _until_served(stack: Stack) -> None:
    async def served() -> bool:
        return bool(await stack.value("select count(*) from runs where ended_at is null"))

    await eventually(served, START_SECONDS)


def _run_batch(model: Path, data: bytes, path: Path) -> float:
    """Seconds of a whole process."""
    (path / "in.jsonl").write_bytes(data)
    command = (sys.executable, "-m", RUN_BATCH, "-i", path / "in.jsonl")
    output = ("-o", path / "out.jsonl", "--model", model, "--served-model-name", "tiny")
    began = time.monotonic()
    with (path / "log").open("wb") as log:
        subprocess.run(
            [*map(str, (*command, *output)), *ENGINE],
            env=os.environ | ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    seconds = time.monotonic() - began
    assert (path / "out.jsonl").read_bytes().count(b"\n") == data.count(b"\n")
    return seconds


def _times(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
