"""The supervisor starts again what dies, says so, and ends all in order, leaving nothing."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from carpool.errors import ConfigurationError
from cli.process_group import Command, ProcessGroup
from cli.process_record import RecordFile, read_record
from cli.supervisor import (
    FIRST_DELAY_SECONDS,
    HEALTHY_SECONDS,
    LONGEST_DELAY_SECONDS,
    Backoff,
    Service,
    Supervisor,
)

WAIT_SECONDS = 20.0
IDLE = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
WITH_CHILD = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
open(sys.argv[1], "w").write(str(child.pid))
print(flush=True)
signal.pause()
"""


class Lines:
    """What the supervisor said, awaited line by line."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self.say = self._queue.put_nowait

    async def next(self) -> str:
        return await asyncio.wait_for(self._queue.get(), WAIT_SECONDS)


class Output:
    """A child's output, taken as the sign that its handlers are set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def first(self, group: ProcessGroup | None = None) -> None:
        """Return when the child has written."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), WAIT_SECONDS)
        finally:
            loop.remove_reader(self._descriptor)
            os.close(self._descriptor)


@pytest.fixture
def record(tmp_path: Path) -> RecordFile:
    return RecordFile(tmp_path / "processes.json")


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def supervisor(record: RecordFile, lines: Lines) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(record, lines.say)
    yield supervisor
    supervisor.hurry()
    await supervisor.stop()


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What died is not started again within the test."""
    monkeypatch.setattr("cli.supervisor.FIRST_DELAY_SECONDS", 1000)


def python(name: str, code: str, *arguments: str, log: Path | None = None) -> Command:
    return Command(name=name, argv=(sys.executable, "-c", code, *arguments), log=log)


def recorded_pids(record: RecordFile) -> dict[str, int]:
    found = read_record(record.path)
    assert found is not None
    return {process.name: process.pid for process in found.processes}


async def test_a_killed_child_is_started_again_and_said_so(
    supervisor: Supervisor, record: RecordFile, lines: Lines
) -> None:
    await supervisor.start(Service(command=python("one", IDLE), stop_seconds=5))
    first = recorded_pids(record)["one"]
    os.kill(first, signal.SIGKILL)
    assert await lines.next() == f"one (pid {first}) was killed by SIGKILL; starts again in 0.2 s"
    again = await lines.next()
    second = recorded_pids(record)["one"]
    assert again == f"one runs again (pid {second})"
    assert second != first
    assert psutil.pid_exists(second)


async def test_the_delay_doubles_while_a_child_dies_at_once(
    supervisor: Supervisor, lines: Lines
) -> None:
    await supervisor.start(Service(command=python("one", "raise SystemExit(3)"), stop_seconds=5))
    said = [await lines.next() for _ in range(5)]
    assert said[0].endswith("ended with code 3; starts again in 0.2 s")
    assert said[2].endswith("ended with code 3; starts again in 0.4 s")
    assert said[4].endswith("ended with code 3; starts again in 0.8 s")


def test_the_backoff_is_bounded_and_forgets_after_health() -> None:
    backoff = Backoff()
    delays = [backoff.after(0) for _ in range(9)]
    assert delays[:3] == [FIRST_DELAY_SECONDS, 0.4, 0.8]
    assert delays[-1] == LONGEST_DELAY_SECONDS
    assert backoff.after(HEALTHY_SECONDS) == FIRST_DELAY_SECONDS


@pytest.mark.usefixtures("_patient")
async def test_the_group_of_a_killed_leader_ends_with_it(
    supervisor: Supervisor, record: RecordFile, lines: Lines, tmp_path: Path
) -> None:
    """As vLLM's engine process must, when its worker is killed."""
    note, output = tmp_path / "child", Output(tmp_path / "output")
    command = python("one", WITH_CHILD, str(note), log=output.path)
    await supervisor.start(Service(command=command, wait_ready=output.first, stop_seconds=5))
    engine = psutil.Process(int(note.read_text()))
    os.kill(recorded_pids(record)["one"], signal.SIGKILL)
    await lines.next()  # is said after the group's end
    with suppress(psutil.NoSuchProcess):
        assert engine.status() == psutil.STATUS_ZOMBIE


async def test_foundations_end_after_those_that_use_them(
    supervisor: Supervisor, record: RecordFile, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print(flush=True)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "open(sys.argv[1], 'a').write(sys.argv[2] + ' ')\n"
    )
    for name, foundation in (("ground", True), ("user", False)):
        output = Output(tmp_path / f"{name}.output")
        await supervisor.start(
            Service(
                command=python(name, code, str(order), name, log=output.path),
                wait_ready=output.first,
                foundation=foundation,
                stop_seconds=10,
            )
        )
    await supervisor.stop()
    assert order.read_text() == "user ground "
    assert recorded_pids(record) == {}


async def test_who_does_not_end_in_time_is_killed(
    supervisor: Supervisor, record: RecordFile, tmp_path: Path
) -> None:
    output = Output(tmp_path / "output")
    await supervisor.start(
        Service(
            command=python("deaf", DEAF, log=output.path),
            wait_ready=output.first,
            stop_seconds=0.2,
        )
    )
    pid = recorded_pids(record)["deaf"]
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_a_hurry_waits_for_nobody(
    supervisor: Supervisor, record: RecordFile, tmp_path: Path
) -> None:
    output = Output(tmp_path / "output")
    await supervisor.start(
        Service(
            command=python("deaf", DEAF, log=output.path),
            wait_ready=output.first,
            stop_seconds=1000,
        )
    )
    stopping = asyncio.create_task(supervisor.stop())
    supervisor.hurry()
    await asyncio.wait_for(stopping, WAIT_SECONDS)
    assert recorded_pids(record) == {}


@pytest.mark.usefixtures("_patient")
async def test_a_stop_during_the_delay_starts_nothing(
    supervisor: Supervisor, record: RecordFile, lines: Lines
) -> None:
    await supervisor.start(Service(command=python("one", "raise SystemExit(3)"), stop_seconds=5))
    assert "starts again" in await lines.next()
    await asyncio.wait_for(supervisor.stop(), WAIT_SECONDS)
    assert recorded_pids(record) == {}


async def test_a_first_start_that_fails_raises(supervisor: Supervisor) -> None:
    def refuse() -> None:
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError, match="no"):
        await supervisor.start(Service(command=python("one", IDLE), prepare=refuse, stop_seconds=5))


async def test_a_start_that_fails_later_is_tried_again(
    supervisor: Supervisor, record: RecordFile, lines: Lines
) -> None:
    outcomes = iter([None, ConfigurationError("the disk is full"), None])

    def prepare() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    service = Service(command=python("one", IDLE), prepare=prepare, stop_seconds=5)
    await supervisor.start(service)
    os.kill(recorded_pids(record)["one"], signal.SIGKILL)
    await lines.next()
    assert await lines.next() == "one cannot start: the disk is full; again in 0.4 s"
    assert (await lines.next()).startswith("one runs again")
