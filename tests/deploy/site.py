"""The compose file's services as plain processes, with what it gives them, in its order.

Postgres and Redis are Debian's, with the compose file's own options. Names of containers become
addresses of this machine, and their paths a temporary directory.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.account import postgres_account
from tests.deploy.files import DEPLOY, Image, Json, compose, example_environment, image
from tests.stack import CARPOOL, END_SECONDS, LOOK_SECONDS, OUTPUT_FILE, clean_environment

POSTGRES_BINARIES: Final = Path("/usr/lib/postgresql/15/bin")
SMALL: Final = {"POSTGRES_SHARED_BUFFERS": "64MB"}
"""What else would be asked of a test's machine."""
SCRIPTS: Final = Path(sys.executable).parent
CHECK_SECONDS: Final = 60.0
FIRST_PORT: Final = 10_000
GIVEN_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(kw_only=True, slots=True)
class Site:
    """What runs of the compose file, in one temporary directory."""

    directory: Path
    settings: Mapping[str, str]
    """Over the environment of every process of Carpool."""
    services: Json = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, dict[str, str]] = field(default_factory=dict)
    """For each service the variables that name its ports, which are free ones here."""
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def database_url(self) -> str:
        return self.environment("api")["CARPOOL_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        return self.environment("api")["CARPOOL_REDIS_URL"]

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']['CARPOOL_PORT']}"

    def output(self) -> str:
        """What all processes have printed so far."""
        return (self.directory / OUTPUT_FILE).read_text()

    def image(self, name: str) -> Image:
        """The image of a service of Carpool."""
        file: str = self.services[name]["build"]["dockerfile"]
        return image(file.removeprefix("deploy/").removesuffix(".Dockerfile"))

    def environment(self, name: str) -> dict[str, str]:
        """What a container of a service would have, at this machine's addresses."""
        given = dict(self.image(name).environment) | self.services[name]["environment"]
        moved = {key: self._here(str(value)) for key, value in given.items() if key != "PATH"}
        ports = self._ports(name, [key for key in moved if key.endswith("_PORT")])
        local = {key: "127.0.0.1" for key in moved if key.endswith("_HOST")}
        return clean_environment() | moved | ports | local | dict(self.settings)

    def command(self, name: str, *arguments: str) -> list[str]:
        """A service's own command, or another in its container, as `compose exec` runs it."""
        whole = [*self.image(name).entrypoint, *(arguments or self.services[name]["command"])]
        assert whole[0] == "carpool"
        return [*CARPOOL, *whole[1:]]

    def start(self, name: str) -> None:
        """Start a service when those that it waits for are as it asks."""
        for before, wanted in self.services[name].get("depends_on", {}).items():
            assert before in self.processes, f"{name} is started before {before}"
            match wanted["condition"]:
                case "service_healthy":
                    self.healthy(before)
                case "service_completed_successfully":
                    assert self.processes[before].wait(END_SECONDS) == 0, self.output()
        match name:
            case "postgres":
                self._make_database()
                command = self._server(name, POSTGRES_BINARIES / "postgres", "-D", self._data,
                    "-c", f"port={self._port(name)}", "-c", f"unix_socket_directories={self._data}",
                    "-c", "fsync=off")  # fmt: skip
                self.run(name, command, os.environ, **self.account)
            case "redis":
                command = self._server(name, "redis-server", "--port", self._port(name),
                    "--bind", "127.0.0.1")  # fmt: skip
                self.run(name, command, os.environ)
            case _:
                self.run(name, self.command(name), self.environment(name))

    def run(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        **options: Any,
    ) -> None:
        """Start a process under a name; ``options`` are Popen's."""
        with (self.directory / OUTPUT_FILE).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self.directory,
                start_new_session=True,
                **options,
            )

    def healthy(self, name: str) -> None:
        """Return when the service's health check succeeds; asserts that it does in time."""
        deadline = time.monotonic() + CHECK_SECONDS
        while (check := self.check(name)).returncode != 0:
            assert self.processes[name].poll() is None, self.output()
            assert time.monotonic() < deadline, (check.stderr, self.output())
            time.sleep(LOOK_SECONDS)

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service's health check once."""
        service = self.services[name]
        if name in ("postgres", "redis"):
            kind, *command = service["healthcheck"]["test"]
            port = "--port" if name == "postgres" else "-p"
            command = [command[0], port, self._port(name), *command[1:]]
            environment = dict(os.environ)
        else:
            given = service.get("healthcheck", {}).get("test")
            kind, *command = given or ["CMD", *self.image(name).healthcheck]
            environment = self.environment(name) | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
        assert kind == "CMD"
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS
        )

    def execute(self, name: str, *arguments: str) -> str:
        """What a `carpool` command prints in a service's container."""
        done = subprocess.run(
            self.command(name, *arguments),
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=END_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self, name: str) -> int:
        """Tell a process of Carpool to end; its exit code. TimeoutExpired where it does not.

        An API that has ended in order hands the signal on at last, to its own default.
        """
        process = self.processes.pop(name)
        process.terminate()
        code = process.wait(END_SECONDS)
        return 0 if name.startswith("api") and code == -signal.SIGTERM else code

    def close(self) -> None:
        """End whatever runs, the servers last."""
        servers = ("redis", "postgres")
        self._end([name for name in self.processes if name not in servers], signal.SIGTERM)
        self._end([name for name in self.processes if name in servers], signal.SIGINT)
        self.processes.clear()

    def _end(self, names: Sequence[str], number: signal.Signals) -> None:
        for name in names:
            self.processes[name].send_signal(number)
        for name in names:
            try:
                self.processes[name].wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()
                self.processes[name].wait()

    @property
    def _data(self) -> Path:
        return self.directory / "postgres"

    def _ports(self, name: str, variables: list[str]) -> dict[str, str]:
        known = self.ports.setdefault(name, {})
        for variable in variables:
            known.setdefault(variable, str(free_port()))
        return known

    def _port(self, name: str) -> str:
        return self._ports(name, ["PORT"])["PORT"]

    def _here(self, text: str) -> str:
        return (
            text.replace("@postgres:5432/", f"@127.0.0.1:{self._port('postgres')}/")
            .replace("//redis:6379/", f"//127.0.0.1:{self._port('redis')}/")
            .replace("/var/lib/carpool", str(self.directory / "carpool"))
            .replace("/etc/carpool/carpool.toml", str(DEPLOY / "carpool.toml"))
        )

    def _server(self, name: str, program: str | Path, *more: str | Path) -> list[str]:
        """The compose file's command for a server, with what this machine adds."""
        return [str(program), *map(str, more), *self.services[name]["command"][1:]]

    def _make_database(self) -> None:
        """What the image of Postgres does at its first start."""
        given = self.services["postgres"]["environment"]
        self._data.mkdir()
        if self.account:
            os.chown(self._data, self.account["user"], self.account["group"])
        password = self.directory / "password"
        password.write_text(given["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        database = f"create database {given['POSTGRES_DB']}\n"
        user, data = given["POSTGRES_USER"], str(self._data)
        self._prepare(
            "initdb", "--no-sync", "--auth=scram-sha-256", f"--pwfile={password}",
            f"--username={user}", "-D", data,
        )  # fmt: skip
        self._prepare("postgres", "--single", "-D", data, "postgres", text=database)

    def _prepare(self, program: str, *arguments: str, text: str = "") -> None:
        subprocess.run(
            [POSTGRES_BINARIES / program, *arguments],
            input=text,
            text=True,
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self.account,
        )


@contextmanager
def site(settings: Mapping[str, str] | None = None) -> Iterator[Site]:
    """An empty site, whose processes and directory go with the context."""
    directory = Path(tempfile.mkdtemp(prefix="carpool-site-"))
    directory.chmod(0o755)
    account = postgres_account()
    try:
        made = Site(
            directory=directory,
            settings=settings or {},
            services=compose(example_environment() | SMALL)["services"],
            account={} if account is None else {"user": account.uid, "group": account.gid},
        )
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(directory)


def order(services: Json, wanted: list[str]) -> list[str]:
    """Services with all that they wait for, each after those."""
    found: list[str] = []
    for name in wanted:
        before = list(services[name].get("depends_on", ()))
        found += [one for one in order(services, before) if one not in found]
        found += [name] if name not in found else []
    return found


def free_port() -> int:
    """A port that nobody uses, and that the system gives to nobody who does not ask for it.

    Others connect and listen all the time until a service listens there.
    """
    while True:
        port = random.randrange(FIRST_PORT, int(GIVEN_PORTS.read_text().split()[0]))
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def until_ready(site: Site, names: list[str]) -> None:
    """Start services in their order, and return when all that stay are healthy."""
    started = order(site.services, names)
    for name in started:
        site.start(name)
    for name in started:
        if site.services[name].get("restart") != "no":
            site.healthy(name)
