"""A child that leads a process group of its own, and takes the whole group with it."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Self

import psutil

from cli.account import Account

GROUP_END_SECONDS = 5.0
_STEP_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What a child runs. Its output goes to ``log``, else to where the parent's own goes."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] | None = None
    account: Account | None = None
    log: Path | None = None
    inherits: tuple[int, ...] = ()
    """File descriptors that the child gets."""
    stop_signal: signal.Signals = signal.SIGTERM


class ProcessGroup:
    """A running child and all that it starts (vLLM's engine processes, say).

    When the leader ends, however it ends, what is left of its group is killed: an engine process
    outlives a worker that was killed by -9, and holds the GPU.
    """

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self.pid = process.pid
        self.started = process_start(process.pid)
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> Self:
        """Start the child as the leader of a new session and group."""
        account = command.account
        output = None if command.log is None else os.open(command.log, _APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                env=command.environment,
                start_new_session=True,
                pass_fds=command.inherits,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
            )
        finally:
            if output is not None:
                os.close(output)
        return cls(command, process)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the leader's end, end its group, and return the leader's exit code."""
        code = await self._process.wait()
        await end_group(self.pid)
        return code

    async def stop(self, *, grace_seconds: float) -> int:
        """Ask the leader to end; after the grace, kill the group. Returns the exit code."""
        self.signal(self.command.stop_signal)
        try:
            return await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the leader alone."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the whole group."""
        kill_group(self.pid)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def process_start(pid: int) -> float:
    """When a process started; 0 for one that is gone.

    On Linux in ticks since the boot, which a step of the clock does not change (proc(5), field
    22), elsewhere in Unix seconds.
    """
    try:
        if sys.platform != "linux":
            return float(psutil.Process(pid).create_time())
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return 0.0


def kill_group(group: int) -> None:
    """SIGKILL to every member of a group; nothing where it has none."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


async def end_group(group: int) -> None:
    """Kill a group, and wait (bounded) until none of its members lives."""
    kill_group(group)
    deadline = asyncio.get_running_loop().time() + GROUP_END_SECONDS
    while group_lives(group):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(_STEP_SECONDS)


def group_lives(group: int) -> bool:
    """Whether a group has a member that is no zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, for a group of zombies
        return True
    return any(_is_member(process, group) for process in psutil.process_iter())


def is_zombie(process: psutil.Process) -> bool:
    """Whether a process has ended and only waits to be collected."""
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def _is_member(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and not is_zombie(process)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
