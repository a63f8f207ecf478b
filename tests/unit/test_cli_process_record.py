"""What a killed `up` left is found and ended; a recycled pid, or another boot's, never is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cli.process_group import Command, ProcessGroup, process_start
from cli.process_record import RecordedProcess, RecordFile, end_recorded, read_record

IDLE = [sys.executable, "-c", "import signal; signal.pause()"]
LEADER_WITH_CHILD = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    "print(child.pid, flush=True)\n"
    "signal.pause()\n",
]


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(IDLE, start_new_session=True) as process:
        yield process
        process.kill()


def recorded(pid: int, **changes: float) -> RecordedProcess:
    process = RecordedProcess(name="one", pid=pid, started=process_start(pid))
    return msgspec.structs.replace(process, **changes)


def test_a_leftover_is_ended(idle: subprocess.Popen[bytes]) -> None:
    assert end_recorded([recorded(idle.pid)], grace_seconds=10) == ["one"]
    assert idle.wait(10) == -signal.SIGTERM


def test_one_that_ignores_its_signal_is_killed() -> None:
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert end_recorded([recorded(process.pid)], grace_seconds=0.1) == ["one"]
        assert process.wait(10) == -signal.SIGKILL


def test_the_group_of_a_dead_leader_is_ended() -> None:
    """A vLLM engine process outlives its worker."""
    with subprocess.Popen(
        LEADER_WITH_CHILD, start_new_session=True, stdout=subprocess.PIPE
    ) as leader:
        assert leader.stdout is not None
        engine = psutil.Process(int(leader.stdout.readline()))
        entry = recorded(leader.pid)
        leader.kill()
    assert end_recorded([entry], grace_seconds=10) == ["one"]
    psutil.wait_procs([engine], timeout=10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_recycled_pid_is_left_alone(idle: subprocess.Popen[bytes]) -> None:
    other = recorded(idle.pid, started=process_start(idle.pid) - 60)
    assert end_recorded([other], grace_seconds=1) == []
    assert idle.poll() is None


def test_what_is_gone_is_nothing(idle: subprocess.Popen[bytes]) -> None:
    entry = recorded(idle.pid)
    idle.kill()
    idle.wait()
    assert end_recorded([entry], grace_seconds=1) == []


async def test_the_file_names_what_runs_and_forgets_what_ended(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "processes.json")
    group = await ProcessGroup.start(Command(name="one", argv=tuple(IDLE)))
    file.add(group, foundation=True)
    record = read_record(file.path)
    assert record is not None
    assert record.owner.pid == os.getpid()
    assert [(p.name, p.pid, p.foundation) for p in record.processes] == [("one", group.pid, True)]
    await group.stop(grace_seconds=10)
    file.remove(group)
    record = read_record(file.path)
    assert record is not None
    assert record.processes == ()


def test_a_record_of_another_boot_counts_for_nothing(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "processes.json")
    file.write()
    record = read_record(file.path)
    assert record is not None
    file.path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, life="another")))
    assert read_record(file.path) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"life": 1}', b"[]"])
def test_a_damaged_record_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "processes.json"
    path.write_bytes(content)
    assert read_record(path) is None
