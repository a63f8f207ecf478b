"""What befalls the processes of a stack."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.stack import CARPOOL, END_SECONDS, Stack, clean_environment, eventually


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is stopped for as long as the context lasts, if it lives so long."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def late(stack: Stack, *arguments: str) -> Iterator[None]:
    """A process of Carpool that `up` knows nothing of, told to end with the context."""
    environment = clean_environment() | {
        "CARPOOL_DATABASE_URL": stack.database_url,
        "CARPOOL_REDIS_URL": stack.redis_url,
        "CARPOOL_DATA_DIR": str(stack.directory),
    }
    process = subprocess.Popen(
        [*CARPOOL, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(END_SECONDS)


@contextmanager
def dead(stack: Stack, name: str) -> Iterator[None]:
    """A child of `up` killed, and nobody there who would start it again, until the context ends."""
    stack.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(stack.pid(name), signal.SIGKILL)
        yield
    finally:
        stack.process.send_signal(signal.SIGCONT)


async def again(stack: Stack, name: str, old: int) -> None:
    """Return when a child lives again under another pid."""

    async def replaced() -> bool:
        return stack.pids().get(name, old) != old

    await eventually(replaced, END_SECONDS)


async def lives(stack: Stack, name: str) -> None:
    """Return when there is such a child."""

    async def there() -> bool:
        return name in stack.pids()

    await eventually(there, END_SECONDS)


async def killed(stack: Stack, name: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill a child of `up`, and return when another is in its place."""
    old = stack.pid(name)
    os.kill(old, number)
    await again(stack, name, old)
