"""The record of what one `carpool up` started, so that what it leaves can be ended.

`up` may be killed by -9. Then its guard, at once, and the next `up` on the same directory end what
the record names. A process is known by its pid and its start, and the record only holds on the boot
and in the pid namespace in which it was written, so no recycled pid is ever signalled.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from cli.process_group import ProcessGroup, group_lives, is_zombie, kill_group, process_start

_STEP_SECONDS = 0.02
_KILLED_SECONDS = 10.0


class RecordedProcess(msgspec.Struct, frozen=True):
    """The leader of a process group; ``started`` as of ``process_start``."""

    name: str
    pid: int
    started: float
    stop_signal: int = signal.SIGTERM
    foundation: bool = False
    """Whether others need it (Postgres, Valkey), so that it ends after them."""

    @property
    def alive(self) -> bool:
        """Whether the leader still runs."""
        with suppress(psutil.NoSuchProcess):
            return process_start(self.pid) == self.started and not is_zombie(
                psutil.Process(self.pid)
            )
        return False

    @property
    def group_remains(self) -> bool:
        """Whether the leader, or a group that it left, still runs."""
        # The pid of a living group is given to no other process: a start that differs is a
        # stranger's.
        return process_start(self.pid) in {self.started, 0} and group_lives(self.pid)


class Record(msgspec.Struct, frozen=True):
    life: str
    owner: RecordedProcess
    processes: tuple[RecordedProcess, ...] = ()


class RecordFile:
    """The record of this process, rewritten whole at each change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        pid = os.getpid()
        self.owner = RecordedProcess(name="up", pid=pid, started=process_start(pid))
        self._processes: dict[int, RecordedProcess] = {}

    def add(self, group: ProcessGroup, *, foundation: bool) -> None:
        """Name a group that was started just now."""
        self._processes[group.pid] = RecordedProcess(
            name=group.command.name,
            pid=group.pid,
            started=group.started,
            stop_signal=group.command.stop_signal,
            foundation=foundation,
        )
        self.write()

    def remove(self, group: ProcessGroup) -> None:
        """Forget a group that is gone."""
        self._processes.pop(group.pid, None)
        self.write()

    def write(self) -> None:
        """Replace the file."""
        record = Record(life=_life(), owner=self.owner, processes=tuple(self._processes.values()))
        beside = self.path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(record))
        beside.replace(self.path)


def read_record(path: Path) -> Record | None:
    """What the file says; None where there is none of this boot."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return record if record.life == _life() else None


def end_recorded(processes: Sequence[RecordedProcess], *, grace_seconds: float) -> list[str]:
    """End what still runs, foundations last, and return its names. Blocks.

    Each leader gets its stop signal, and after the grace its whole group is killed.
    """
    remaining = [process for process in processes if process.group_remains]
    for stage in (False, True):
        _end([process for process in remaining if process.foundation is stage], grace_seconds)
    return [process.name for process in remaining]


def _end(processes: list[RecordedProcess], grace_seconds: float) -> None:
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, process.stop_signal)
    _wait_while(lambda: any(process.alive for process in processes), grace_seconds)
    for process in processes:
        if process.group_remains:
            kill_group(process.pid)
    _wait_while(lambda: any(process.group_remains for process in processes), _KILLED_SECONDS)


def _wait_while(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS)


def _life() -> str:
    """Names the boot and the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"booted at {psutil.boot_time():.0f}"
