"""The embedded Postgres and Valkey start fast, outlive kill -9, and leave nothing behind."""

import asyncio
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from cli.postgres import STOP_SECONDS, EmbeddedPostgres, embedded_postgres
from cli.private_directory import SOCKET_PATH_BYTES
from cli.process_group import ProcessGroup
from cli.process_record import RecordFile, read_record
from cli.services import postgres_service, valkey_service
from cli.supervisor import Supervisor
from cli.valkey import EmbeddedValkey, embedded_valkey

FIRST_START_SECONDS = 30.0
"""It takes about one; a loaded machine runs each of its many processes late."""
WAIT_SECONDS = 30.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, so that sockets fit, and outside pytest's own, which other accounts cannot enter."""
    path = Path(tempfile.mkdtemp(prefix="carpool-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def said(directory: Path) -> AsyncIterator["Said"]:
    said = Said(RecordFile(directory / "processes.json"))
    yield said
    await said.supervisor.stop()


class Said:
    """A supervisor and what it says."""

    def __init__(self, record: RecordFile) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._record = record
        self.supervisor = Supervisor(record, self._lines.put_nowait)

    async def next(self) -> str:
        return await asyncio.wait_for(self._lines.get(), WAIT_SECONDS)

    def pid(self, name: str) -> int:
        record = read_record(self._record.path)
        assert record is not None
        return next(process.pid for process in record.processes if process.name == name)


async def test_postgres_keeps_its_data_over_a_restart(directory: Path) -> None:
    began = time.monotonic()
    async with embedded_postgres(directory / "postgres") as url:
        assert time.monotonic() - began < FIRST_START_SECONDS
        await execute(url, "create table kept as select 1 as value")
    async with embedded_postgres(directory / "postgres") as url:
        assert await value(url, "select value from kept") == 1


async def test_postgres_is_set_up_as_the_truth_must_be(directory: Path) -> None:
    async with embedded_postgres(directory / "postgres") as url:
        for setting, expected in (
            ("synchronous_commit", "on"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("server_encoding", "UTF8"),
            ("listen_addresses", ""),
        ):
            assert await value(url, f"show {setting}") == expected
        assert str(await value(url, "show server_version")).startswith("18.")


async def test_postgres_is_reached_by_its_owner_alone(directory: Path) -> None:
    async with embedded_postgres(directory / "postgres"):
        assert mode(directory / "postgres") == 0o700


async def test_postgres_and_valkey_start_where_a_socket_path_is_too_long(directory: Path) -> None:
    deep = directory / ("d" * SOCKET_PATH_BYTES)
    async with embedded_postgres(deep / "postgres") as url:
        assert await value(url, "select 1") == 1
        sockets = Path(url.partition("?host=")[2].replace("%2F", "/"))
        assert mode(sockets) == 0o700
    async with embedded_valkey(deep / "valkey") as url, Redis.from_url(url) as client:
        assert await client.ping()
        short = Path(url.removeprefix("unix://")).parent
    shutil.rmtree(sockets)
    shutil.rmtree(short)


async def test_a_first_start_that_was_broken_off_is_made_anew(directory: Path) -> None:
    half = directory / "postgres.new-abandoned"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(directory / "postgres") as url:
        assert await value(url, "select 1") == 1
    assert not half.exists()


async def test_a_killed_postgres_is_started_again_with_all_it_had_committed(
    directory: Path, said: Said
) -> None:
    server = EmbeddedPostgres(directory / "postgres", log=directory / "log")
    await said.supervisor.start(postgres_service(server))
    await execute(server.url, "create table kept as select 1 as value")
    first = said.pid("postgres")
    os.kill(first, signal.SIGKILL)
    assert await said.next() == (
        f"postgres (pid {first}) was killed by SIGKILL; starts again in 0.2 s"
    )
    assert await said.next() == f"postgres runs again (pid {said.pid('postgres')})"
    assert await value(server.url, "select value from kept") == 1


async def test_a_backend_that_outlives_its_postmaster_is_ended_before_the_next_start(
    directory: Path, said: Said
) -> None:
    """Else the next postmaster refuses to start: the shared memory is in use."""
    server = EmbeddedPostgres(directory / "postgres", log=directory / "log")
    await said.supervisor.start(postgres_service(server))
    connection = await asyncpg.connect(server.url)
    stopped = psutil.Process(await connection.fetchval("select pg_backend_pid()"))
    stopped.suspend()
    os.kill(said.pid("postgres"), signal.SIGKILL)
    await said.next()
    await said.next()
    assert await value(server.url, "select 1") == 1
    assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE
    connection.terminate()


async def test_a_postgres_left_running_gives_way_to_the_next(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres", log=directory / "log")
    await asyncio.to_thread(server.prepare)
    left = await ProcessGroup.start(server.command)
    await server.wait_ready(left)
    async with embedded_postgres(directory / "postgres") as url:
        assert await left.wait() == -signal.SIGKILL
        assert await value(url, "select 1") == 1


async def test_a_stale_pid_file_of_a_living_process_does_not_hinder(directory: Path) -> None:
    async with embedded_postgres(directory / "postgres"):
        pass
    stale = f"{os.getppid()}\n{directory / 'postgres'}\n1\n5432\n{directory}\n\n  0 0\nready\n"
    (directory / "postgres" / "postmaster.pid").write_text(stale)
    async with embedded_postgres(directory / "postgres") as url:
        assert await value(url, "select 1") == 1


async def test_an_end_with_open_sessions_is_quick_and_leaves_no_process(directory: Path) -> None:
    async with embedded_postgres(directory / "postgres") as url:
        connection = await asyncpg.connect(url)
        backend = psutil.Process(await connection.fetchval("select pg_backend_pid()"))
        postmaster = backend.parent()
        assert postmaster is not None
        everyone = [postmaster, *postmaster.children()]
        began = time.monotonic()
    assert time.monotonic() - began < STOP_SECONDS, "it did not end, but was ended"
    assert not [process for process in everyone if process.is_running()]
    connection.terminate()


async def test_valkey_answers_both_kinds_of_client_and_keeps_nothing(directory: Path) -> None:
    async with embedded_valkey(directory / "valkey") as url, Redis.from_url(url) as client:
        assert (await client.info("server"))["valkey_version"] >= "8"
        await client.set("gone", 1)
    async with embedded_valkey(directory / "valkey") as url, Redis.from_url(url) as client:
        assert await client.get("gone") is None


async def test_a_killed_valkey_is_started_again_at_the_same_url(
    directory: Path, said: Said
) -> None:
    server = EmbeddedValkey(directory / "valkey", log=directory / "log")
    await said.supervisor.start(valkey_service(server))
    os.kill(said.pid("valkey"), signal.SIGKILL)
    assert "was killed by SIGKILL" in await said.next()
    assert "runs again" in await said.next()
    async with Redis.from_url(server.url) as client:
        assert await client.ping()


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


async def value(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
