"""`carpool submit` refuses what would lose or double work; it does not guess its server."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carpool.errors import ConfigurationError
from carpool.settings import load
from cli.bulk.address import Address, find_address
from cli.bulk.batches import errors_path
from cli.bulk.faults import BadInput
from cli.bulk.options import Options
from cli.bulk.plan import Limits, make_plan
from cli.bulk.progress import PlainLines
from cli.bulk.server import Server
from cli.bulk.source import Source, settled
from cli.bulk.state import begun, fingerprint
from cli.bulk.submit import find_paths, only_model, resume_command
from cli.connection import Connection, write_connection
from cli.main import app

LIMITS = Limits(requests=50_000, bytes=200_000_000)

LOCAL = Connection(
    base_url="http://127.0.0.1:9/v1",
    api_key="sk-local",
    admin_key="sk-admin",
    database_url="postgresql://postgres@/carpool?host=/somewhere",
    redis_url="unix:///somewhere/valkey.sock",
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("CARPOOL_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    return tmp_path / "prompts.txt"


def submit(*arguments: str | Path) -> None:
    CliRunner().invoke(app, ["submit", *map(str, arguments)], catch_exceptions=False)


def begin(path: Path, exit_code: int | None = None) -> None:
    """Leave the state that a submission of the file has at its beginning, or at its end."""
    kind, options = settled(path, Options(model="m"))
    plan = make_plan(Source(path, kind, options), LIMITS)
    state = begun(fingerprint(path), options, LIMITS, LOCAL.base_url, plan)
    state.exit_code = exit_code
    state.save(find_paths(path, None).state)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    assert find_address(load()).base_url == LOCAL.base_url
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu/v1")
    with pytest.raises(ConfigurationError, match=r"^OPENAI_API_KEY: "):
        find_address(load())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-far")
    address = find_address(load())
    assert (address.base_url, address.api_key) == ("http://gpu/v1", "sk-far")
    assert "sk-far" not in repr(address)


def test_a_key_for_openai_is_not_sent_to_a_local_carpool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_connection(tmp_path / "data", LOCAL)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert find_address(load()).api_key == "sk-local"


def test_without_a_server_it_says_what_to_do(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"OPENAI_BASE_URL: .* or run `carpool up`"):
        submit(path)
    assert sorted(found.name for found in path.parent.iterdir()) == ["data", "prompts.txt"]


@pytest.mark.parametrize(
    ("name", "output", "results"),
    [
        ("a.jsonl", None, "a.results.jsonl"),
        ("a.txt", None, "a.results.jsonl"),
        ("a.csv", None, "a.results.csv"),
        ("a.csv", "b.jsonl", "b.jsonl"),
    ],
)
def test_the_results_have_a_place(
    tmp_path: Path, name: str, output: str | None, results: str
) -> None:
    (tmp_path / name).touch()
    paths = find_paths(tmp_path / name, tmp_path / output if output else None)
    assert paths.output == tmp_path / results
    assert paths.partial.name == f"{results}.partial"
    assert paths.state.name == f"{results}.state.json"


def test_files_that_cannot_be_are_refused(path: Path) -> None:
    for wrong, output in ((path.parent / "none", None), (path, path), (path, path.parent)):
        with pytest.raises(BadInput):
            find_paths(wrong, output)
    with pytest.raises(ConfigurationError, match="--output: cannot write"):
        find_paths(path, path.parent / "none" / "out.jsonl")


def test_a_submission_that_has_begun_is_not_begun_again(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    begin(path)
    with pytest.raises(BadInput, match=r"has begun: go on with it by --resume, or choose"):
        submit(path)
    path.write_text("other\n")
    with pytest.raises(BadInput, match=r"has begun \(of another content of the input file\)"):
        submit(path)
    assert find_paths(path, None).state.exists()


def test_another_content_is_not_resumed(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    begin(path)
    path.write_text("other\n")
    with pytest.raises(BadInput, match=r"no longer the file that was submitted"):
        submit(path, "--resume")


def test_nothing_is_not_resumed(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    with pytest.raises(BadInput, match=r"^--resume: there is no .*\.state\.json; leave --resume"):
        submit(path, "--resume")
    assert not find_paths(path, None).partial.exists()


def test_other_options_are_not_resumed(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    begin(path)
    with pytest.raises(BadInput, match=r"^--model: the submission was begun with 'm'"):
        submit(path, "--resume", "--model", "n")


def test_results_that_are_there_are_not_overwritten(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    paths = find_paths(path, None)
    paths.output.write_text("precious")
    for exit_code in (None, 0, 3):
        if exit_code is not None:
            begin(path, exit_code)
        with pytest.raises(BadInput, match=r"is there already"):
            submit(path, "--model", "m")
    assert paths.output.read_text() == "precious"
    assert not paths.partial.exists()


@pytest.mark.parametrize("exit_code", [0, 3])
def test_what_is_finished_ends_again_as_it_ended(
    path: Path, tmp_path: Path, exit_code: int
) -> None:
    write_connection(tmp_path / "data", LOCAL)
    begin(path, exit_code)
    found = CliRunner().invoke(app, ["submit", str(path), "--resume"])
    assert found.exit_code == exit_code
    assert "finished already" in found.stderr


def test_the_only_model_is_taken(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(Server, "models", only_one)
    address = Address(base_url=LOCAL.base_url, api_key=LOCAL.api_key)
    assert asyncio.run(only_model(address, PlainLines())) == "tiny"


async def only_one(_: Server) -> list[str]:
    return ["tiny"]


def test_a_dry_run_cannot_be_resumed(path: Path, tmp_path: Path) -> None:
    write_connection(tmp_path / "data", LOCAL)
    with pytest.raises(BadInput, match=r"^--dry-run: "):
        submit(path, "--dry-run", "--resume")


@pytest.mark.parametrize(
    ("begun_before", "told"),
    [(False, "nothing was submitted"), (True, "goes on. Resume by: carpool submit")],
)
def test_an_interrupt_tells_how_it_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun_before: bool, told: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_connection(tmp_path / "data", LOCAL)
    if begun_before:
        begin(path)
    monkeypatch.setattr("cli.bulk.submit.make_plan", interrupted)
    arguments = ["submit", str(path), "--model", "m", *(["--resume"] if begun_before else [])]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 130
    assert told in found.stderr
    assert find_paths(path, None).state.exists() is begun_before
    assert not find_paths(path, None).partial.exists()


def test_the_way_to_resume_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "my prompts.txt").touch()
    command = resume_command(find_paths(tmp_path / "my prompts.txt", None))
    assert f"'{tmp_path}/my prompts.txt' --output" in command
    assert command.endswith(" --resume")


def test_help_tells_the_exit_codes() -> None:
    told = " ".join(CliRunner().invoke(app, ["submit", "--help"]).stdout.split())
    for code in ("0 all succeeded", "1 it cannot", "2 wrong", "3 finished", "4 cancelled", "130 "):
        assert code in told


def test_the_error_file_lies_beside_the_output() -> None:
    assert errors_path(Path("d/batch_1.output.jsonl")) == Path("d/batch_1.errors.jsonl")
    assert errors_path(Path("out.jsonl")) == Path("out.errors.jsonl")
