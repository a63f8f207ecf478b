"""The servers under measurement, each a process of its own, ended when its context ends."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from cli.connection import read_connection
from cli.port import free_port
from cli.probe import get
from tests.benchmarks.chat import Target
from tests.benchmarks.yardstick import litellm_command, litellm_environment, write_config

READY_SECONDS = 90.0
STOP_SECONDS = 40.0
_STEP_SECONDS = 0.05
_LOG_LINES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Carpool:
    """A running `carpool up`."""

    target: Target
    database_url: str
    process: psutil.Process


@contextmanager
def carpool_up() -> Iterator[Carpool]:
    """Everything that `carpool up` starts, durable, its simulated engine without any delay."""
    with directory() as data:
        arguments = (sys.executable, "-P", "-m", "cli.main", "up")
        command = (*arguments, "--data-dir", str(data / "data"), "--port", "0")
        environment = _clean_environment() | {
            "CARPOOL_SIMULATED_FIRST_TOKEN_MS": "0",
            "CARPOOL_SIMULATED_TOKEN_MS": "0",
        }
        with _running(command, environment, data / "log") as process:
            _await(process, data / "log", lambda: read_connection(data / "data") is not None)
            connection = read_connection(data / "data")
            assert connection is not None
            port = urlsplit(connection.base_url).port
            assert port is not None
            yield Carpool(
                target=Target(port=port, key=connection.api_key),
                database_url=connection.database_url,
                process=psutil.Process(process.pid),
            )


@contextmanager
def fake_provider() -> Iterator[Target]:
    """The provider of :mod:`tests.benchmarks.fake_provider`."""
    target = Target(port=free_port("127.0.0.1", 0), key="sk-fake")
    command = (sys.executable, "-m", "tests.benchmarks.fake_provider", str(target.port))
    with directory() as data, _running(command, _clean_environment(), data / "log") as process:
        _await(process, data / "log", lambda: _serves(target))
        yield target


@contextmanager
def litellm_proxy(provider: Target) -> Iterator[Target]:
    """LiteLLM's proxy in front of a provider."""
    target = Target(port=free_port("127.0.0.1", 0), key=f"sk-{secrets.token_hex(32)}")
    with directory() as data:
        command = litellm_command(write_config(data / "config.yaml", provider), target.port)
        environment = _clean_environment() | litellm_environment(target.key)
        with _running(command, environment, data / "log") as process:
            _await(process, data / "log", lambda: _serves(target))
            yield target


@contextmanager
def directory() -> Iterator[Path]:
    """A temporary directory with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="carpool-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _running(
    command: tuple[str, ...], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order, then by force, with all that is left of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def _await(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise SystemExit(f"A server did not start: {process.args!r}\n{said}")
        time.sleep(_STEP_SECONDS)


def _serves(target: Target) -> bool:
    answer = get(f"{target.base_url}/models", key=target.key)
    return answer is not None and answer[0] == 200


def _clean_environment() -> dict[str, str]:
    """Ours without what would configure another Carpool, or send anything elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARPOOL_", "OPENAI_", "LITELLM_"))
    }
