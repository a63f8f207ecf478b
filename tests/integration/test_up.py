"""`carpool up`, as a whole: ready soon, outlives what dies, ends in order, leaves no child."""

import asyncio
import json
import os
import queue
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from cli.probe import get
from db.database import Database
from db.keys import list_keys
from tests import prepared_postgres

READY_SECONDS = 30.0
AGAIN_SECONDS = 45.0
"""A start that must not wait for what an earlier one left; a loaded machine takes its time."""
RETRIES = 10
"""While a child starts again: the SDK's own patience ends after two seconds."""
WAIT_SECONDS = 60.0
END_SECONDS = 40.0
CARPOOL = (sys.executable, "-P", "-m", "cli.main")


class Up:
    """A running `carpool up`, its output awaited line by line."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.directory = directory
        self.began = time.monotonic()
        self.printed: list[str] = []
        self.process = subprocess.Popen(
            [*CARPOOL, "up", "--data-dir", str(directory), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment() | environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, pattern: str) -> re.Match[str]:
        """The next line that matches."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no line {pattern!r} in:\n{self.text}") from None
            if match := re.search(pattern, line):
                return match

    def ready(self) -> "Up":
        self.line(r"Ctrl-C ends it")
        return self

    @property
    def text(self) -> str:
        return "".join(self.printed)

    @property
    def connection(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.directory / "connection.json").read_bytes())
        return found

    def pid(self, name: str) -> int:
        record = json.loads((self.directory / "processes.json").read_bytes())
        return next(int(p["pid"]) for p in record["processes"] if p["name"] == name)

    def descendants(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.printed.append(line)
                self._lines.put(line)


@pytest.fixture
def empty() -> Iterator[Path]:
    """Short, so that sockets fit, and outside pytest's own, which other accounts cannot enter."""
    path = Path(tempfile.mkdtemp(prefix="carpool-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory(empty: Path) -> Path:
    """With the data of a Postgres that has the schema."""
    prepared_postgres.give(empty)
    return empty


@contextmanager
def running(directory: Path, *options: str, **environment: str) -> Iterator[Up]:
    """A ready `up`, ended at the end in whatever state it is."""
    up = Up(directory, *options, **environment)
    try:
        yield up.ready()
    finally:
        if up.process.poll() is None:
            up.end()


@pytest.mark.timed
def test_a_first_start_is_ready_soon_and_tells_all_that_is_needed(empty: Path) -> None:
    with running(empty, CARPOOL_SIMULATED_FIRST_TOKEN_MS="1") as up:
        assert time.monotonic() - up.began < READY_SECONDS
        connection = up.connection
        assert set(connection) == {
            "base_url",
            "api_key",
            "admin_key",
            "database_url",
            "redis_url",
        }
        assert mode(empty / "connection.json") == 0o600
        assert connection["base_url"] in up.text
        assert connection["api_key"] in up.text
        assert connection["admin_key"] not in up.text
        assert "SIMULATED" in up.text
        with client(connection) as openai:
            assert [model.id for model in openai.models.list()] == ["simulated"]


def test_the_printed_examples_work_as_they_are(directory: Path) -> None:
    with running(directory, CARPOOL_SIMULATED_FIRST_TOKEN_MS="1") as up:
        shell, python = re.split(r"^Python$", up.text.partition("\ncurl\n")[2], flags=re.MULTILINE)
        answer = subprocess.run(["bash", "-c", shell], capture_output=True, check=True, timeout=30)
        assert json.loads(answer.stdout)["choices"][0]["message"]["content"]
        code = python.partition("Ctrl-C")[0]
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, timeout=60
        )
        assert said.stdout.strip()


def test_data_and_keys_outlive_a_restart(directory: Path) -> None:
    with running(directory, CARPOOL_SIMULATED_FIRST_TOKEN_MS="1") as up:
        first = up.connection
        stored = request(first)
    with running(directory) as up:
        second = up.connection
        assert second["api_key"] == first["api_key"]
        assert second["admin_key"] == first["admin_key"]
        assert time.monotonic() - up.began < AGAIN_SECONDS
        answer = get(f"{second['base_url']}/requests/{stored}", key=second["api_key"])
        assert answer is not None
        assert json.loads(answer[1])["status"] in {"completed", "queued", "in_progress"}


def test_a_key_that_the_database_no_longer_knows_is_made_anew(directory: Path) -> None:
    with running(directory) as up:
        first = up.connection
        carpool(directory, "keys", "revoke", first["api_key"])
    with running(directory) as up:
        assert up.connection["api_key"] != first["api_key"]
        with client(up.connection) as openai:
            assert openai.models.list().data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_in_order_leaves_no_child(directory: Path, number: signal.Signals) -> None:
    with running(directory, "--workers", "2") as up:
        children = up.descendants()
        names = {child.name() for child in children}
        assert "postgres" in names
        assert up.end(number) == 0
        assert living(children) == []
        assert "starts again" not in up.text


def test_an_end_during_the_start_leaves_no_child(empty: Path) -> None:
    up = Up(empty)
    wait_for(lambda: (empty / "postgres" / "postmaster.pid").exists())
    children = up.descendants()
    assert up.end() == 0
    assert living(children) == []


def test_a_second_signal_hurries(directory: Path) -> None:
    with running(
        directory, CARPOOL_DRAIN_SECONDS="300", CARPOOL_SIMULATED_FIRST_TOKEN_MS="200000"
    ) as up:
        request(up.connection)
        children = up.descendants()
        up.process.send_signal(signal.SIGINT)
        up.line("once more to hurry")
        up.end(signal.SIGINT)
        assert living(children) == []


def test_nothing_remains_of_a_killed_up(directory: Path) -> None:
    """The guard sees the end and ends the children, by itself."""
    with running(directory) as up:
        children = up.descendants()
        up.process.kill()
        up.process.wait()
        assert not psutil.wait_procs(children, timeout=END_SECONDS)[1]


def test_a_start_after_a_killed_up_and_guard_ends_what_was_left(directory: Path) -> None:
    with running(directory) as first:
        children = first.descendants()
        guard = next(child for child in children if "cli.guard" in child.cmdline())
        guard.kill()
        wait_for(lambda: living([guard]) == [])
        first.process.kill()
        first.process.wait()
        left = [first.pid(name) for name in ("api", "postgres", "valkey", "worker simulated-1")]
        assert all(psutil.pid_exists(pid) for pid in left)
        with running(directory) as second:
            assert living(children) == []
            assert second.connection["api_key"] == first.connection["api_key"]
            assert time.monotonic() - second.began < AGAIN_SECONDS


@pytest.mark.parametrize("name", ["postgres", "valkey", "api", "worker simulated-1"])
def test_a_killed_child_is_started_again_and_serves(directory: Path, name: str) -> None:
    with running(directory, CARPOOL_SIMULATED_FIRST_TOKEN_MS="1") as up:
        pid = up.pid(name)
        os.kill(pid, signal.SIGKILL)
        up.line(rf"carpool: {name} \(pid {pid}\) was killed by SIGKILL; starts again in 0.2 s")
        again = up.line(rf"carpool: {name} runs again \(pid (\d+)\)")
        assert int(again[1]) == up.pid(name) != pid
        with client(up.connection) as openai:
            answer = openai.with_options(max_retries=RETRIES).chat.completions.create(
                model="simulated", messages=[{"role": "user", "content": "Hello"}]
            )
        assert answer.choices[0].message.content


def test_a_second_up_on_the_same_directory_is_refused(directory: Path) -> None:
    with running(directory) as up:
        refused = carpool(directory, "up", "--port", "0", check=False)
        assert refused.returncode == 2
        assert f"another `carpool up` (pid {up.process.pid}) uses {directory}" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert get(up.connection["base_url"].removesuffix("/v1") + "/readyz") is not None


def test_a_taken_port_is_named(empty: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = carpool(empty, "up", "--port", str(port), check=False)
    assert refused.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("backends = 3", "backends"),
        ("[backends.a]\nkind = 'steam'", "backends.a"),
        ("[models.m]\nbackends = ['nowhere']", "there is no backend 'nowhere'"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_bad_configuration_is_one_line(empty: Path, content: str, message: str) -> None:
    (empty / "bad.toml").write_text(content)
    refused = carpool(empty, "up", "--config", str(empty / "bad.toml"), check=False)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (empty / "postgres").exists()


def test_a_given_database_is_used_instead_of_the_embedded(directory: Path, empty: Path) -> None:
    with running(directory) as first:
        url = first.connection["database_url"]
        with running(empty / "second", CARPOOL_DATABASE_URL=url) as second:
            assert second.connection["database_url"] == url
            assert not (empty / "second" / "postgres").exists()
            assert asyncio.run(count_keys(url)) == 4


def test_the_other_commands_find_a_running_up(directory: Path) -> None:
    with running(directory) as up:
        made = carpool(directory, "keys", "create", "--team", "blue", "--name", "ci")
        secret = made.stdout.strip()
        with client(up.connection | {"api_key": secret}) as openai:
            assert openai.models.list().data
        assert "blue" in carpool(directory, "keys", "list").stdout
        carpool(directory, "keys", "revoke", secret)
        assert carpool(directory, "keys", "revoke", secret, check=False).returncode == 2
        status = carpool(directory, "status").stdout
        for expected in ("Processes", "Routes", "simulated"):
            assert expected in status
        carpool(directory, "migrate")
        port = up.connection["base_url"].rpartition(":")[2].removesuffix("/v1")
        doctor = carpool(directory, "doctor", "--port", port).stdout
        assert "WRONG" not in doctor
        assert "a Carpool answers there" in doctor
        assert re.search(r"ok +schema", doctor)


def clean_environment() -> dict[str, str]:
    """Without what would configure another Carpool."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARPOOL_", "OPENAI_"))
    }


def carpool(
    directory: Path, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Another command on the same data directory."""
    return subprocess.run(
        [*CARPOOL, *arguments],
        env=clean_environment() | {"CARPOOL_DATA_DIR": str(directory), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=check,
        timeout=WAIT_SECONDS,
    )


@contextmanager
def client(connection: dict[str, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=connection["base_url"], api_key=connection["api_key"]) as openai:
        yield openai


def request(connection: dict[str, str]) -> str:
    """Leave a request to be answered later; its id."""
    body: dict[str, Any] = {
        "model": "simulated",
        "messages": [{"role": "user", "content": "Hello"}],
    }
    with client(connection) as openai:
        answer = openai.post(
            "/chat/completions",
            body=body,
            cast_to=object,
            options={"headers": {"Prefer": "respond-async"}},
        )
    assert isinstance(answer, dict)
    return str(answer["id"])


async def count_keys(url: str) -> int:
    database = Database(url, pool_size=1)
    try:
        return len(await list_keys(database))
    finally:
        await database.close()


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
