"""The command line is quick to help, and tells an operator's mistake in one line."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from carpool import __version__
from carpool.errors import ConfigurationError
from carpool.settings import OpenAISettings, load
from cli import machine_findings
from cli.connection import Connection, connected, read_connection, write_connection
from cli.data_lock import locked
from cli.main import app
from cli.port import base_url, free_port
from cli.server_findings import redis_version
from cli.welcome import simulated_only
from tests.ports import reserved

CONNECTION = Connection(
    base_url="http://127.0.0.1:8000/v1",
    api_key="sk-carpool-a",
    admin_key="sk-carpool-b",
    database_url="postgresql://postgres@/carpool?host=/somewhere",
    redis_url="unix:///somewhere/valkey.sock",
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CARPOOL_DATABASE_URL", "CARPOOL_REDIS_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CARPOOL_DATA_DIR", str(tmp_path))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, cli.main\n"
        "heavy = {'sqlalchemy', 'alembic', 'openai', 'dramatiq', 'starlette', 'vllm', 'redis'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"carpool {__version__}\n"


def test_a_worker_for_an_unknown_backend_names_the_known() -> None:
    with pytest.raises(ConfigurationError, match="there is no 'steam'; there is simulated"):
        CliRunner().invoke(app, ["worker", "--backend", "steam"], catch_exceptions=False)


def test_commands_without_a_database_say_what_to_do() -> None:
    for command in (["status"], ["migrate"], ["keys", "list"], ["api"]):
        with pytest.raises(ConfigurationError, match="CARPOOL_DATABASE_URL, or run `carpool up`"):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_a_mistake_is_one_line_and_the_exit_code_2() -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "status"], capture_output=True, text=True
    )
    assert said.returncode == 2
    assert said.stderr.startswith("carpool: database_url: ")
    assert said.stderr.count("\n") == 1


def test_a_connection_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("{}")
    (tmp_path / "connection.json").chmod(0o644)
    assert read_connection(tmp_path) is None
    write_connection(tmp_path, CONNECTION)
    assert (tmp_path / "connection.json").stat().st_mode & 0o777 == 0o600
    assert read_connection(tmp_path) == CONNECTION
    assert [path.name for path in tmp_path.iterdir()] == ["connection.json"]


def test_given_urls_come_before_stored_ones(tmp_path: Path) -> None:
    write_connection(tmp_path, CONNECTION)
    settings = load(data_dir=tmp_path, redis_url=SecretStr("redis://given"))
    found = connected(settings)
    assert found.redis_url == SecretStr("redis://given")
    assert found.database_url == SecretStr(CONNECTION.database_url)


def test_the_lock_is_held_by_one(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "data"),
        pytest.raises(ConfigurationError, match="another `carpool up`"),
        locked(tmp_path / "data"),
    ):
        pass
    with locked(tmp_path / "data"):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match="data_dir: cannot use"),
        locked(tmp_path / "file" / "data"),
    ):
        pass


def test_a_port_is_chosen_or_refused() -> None:
    with reserved() as port:
        with socket.create_server(("127.0.0.1", port)):
            with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {port}"):
                free_port("127.0.0.1", port)
            assert free_port("127.0.0.1", 0) not in {0, port}
        assert free_port("127.0.0.1", port) == port


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:1/v1"),
        ("0.0.0.0", "http://127.0.0.1:1/v1"),
        ("::", "http://[::1]:1/v1"),
        ("fe80::1", "http://[fe80::1]:1/v1"),
        ("gpu.example", "http://gpu.example:1/v1"),
    ],
)
def test_the_base_url_can_be_used_on_this_machine(host: str, expected: str) -> None:
    assert base_url(host, 1) == expected


@pytest.mark.parametrize(
    ("info", "well"),
    [
        ({"redis_version": "6.2.0"}, True),
        ({"redis_version": "6.0.16"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, True),
    ],
)
def test_the_doctor_knows_which_redis_is_too_old(info: dict[str, str], well: bool) -> None:
    assert redis_version(info).well is well


def test_the_doctor_asks_for_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load()
    backend = OpenAISettings.model_validate({"kind": "openai", "api_key_env": "MINE"})
    monkeypatch.setitem(settings.__dict__, "backends", {"cloud": backend})
    (finding,) = machine_findings.engines(settings)
    assert finding.advice == "set MINE in the environment of the workers"
    monkeypatch.setenv("MINE", "secret-of-mine")
    (finding,) = machine_findings.engines(settings)
    assert finding.well
    assert "secret" not in finding.seen


def test_the_doctor_says_how_to_install_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_findings, "installed", lambda _: None)
    settings = load(vllm_model="tiny")
    (finding,) = machine_findings.engines(settings)
    assert finding.advice is not None
    assert "carpool[vllm]" in finding.advice


def test_the_doctor_sees_a_port_taken_by_a_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.settimeout(10)
        finding = machine_findings.port(load(port=taken.getsockname()[1]))
    assert not finding.well


def test_the_doctor_exits_by_what_it_found(tmp_path: Path) -> None:
    environment = {"CARPOOL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    with reserved() as port:
        well = CliRunner().invoke(app, ["doctor", "--port", str(port)])
        ill = CliRunner().invoke(app, ["doctor", "--port", str(port)], env=environment)
    assert well.exit_code == 0
    assert "WRONG" not in well.stdout
    assert ill.exit_code == 1
    assert "do: start it, or correct CARPOOL_DATABASE_URL" in ill.stdout


def test_only_simulation_is_told_apart() -> None:
    assert simulated_only(load())
    assert not simulated_only(load(vllm_model="tiny"))
