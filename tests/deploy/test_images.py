"""The images: what is in them, who they run as, and that their commands exist."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.commands import parse, unknown
from tests.deploy.files import DEPLOY, ROOT, image, instructions

NAMES = ("api", "worker")
PACKAGES = ("api", "carpool", "cli", "db", "migrations", "workers")
NOT_SHIPPED = ("__pycache__",)
HADOLINT = Path(sys.executable).with_name("hadolint")


def pins(name: str) -> dict[str, str]:
    """The versions of a file of constraints."""
    lines = (DEPLOY / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


def requirements(extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(text) for text in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_linter_of_dockerfiles_finds_nothing(name: str) -> None:
    run = subprocess.run([HADOLINT, DEPLOY / f"{name}.Dockerfile"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_a_command_that_exists_as_nobody_special(name: str) -> None:
    built = image(name)
    assert built.entrypoint == ["carpool"]
    parse(built.command)
    assert int(built.user) > 0
    assert not unknown(set(built.environment))
    assert built.environment["CARPOOL_HOST" if name == "api" else "CARPOOL_METRICS_HOST"] == (
        "0.0.0.0"
    )
    named = {int(v) for k, v in built.environment.items() if k.endswith("_PORT")}
    assert built.ports == named


@pytest.mark.parametrize("name", NAMES)
def test_what_an_image_is_built_from_is_let_in_and_no_more(name: str) -> None:
    """All that is copied passes `.dockerignore`, which lets in the packages and nothing secret."""
    ignored, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored == "*"
    let_in = {line.removeprefix("!") for line in rest if line.startswith("!")}
    assert all((ROOT / path).exists() for path in let_in)
    assert set(PACKAGES) < let_in
    for *sources, _ in image(name).copied:
        if not sources[0].startswith("--from=") and sources != ["."]:
            assert set(sources) <= let_in


@pytest.mark.parametrize(("name", "file"), [("api", "constraints"), ("worker", "constraints-cuda")])
def test_an_image_holds_the_pinned_versions(name: str, file: str) -> None:
    """Both images hold Carpool's own requirements in the versions that the tests ran with."""
    assert any(
        word == "RUN" and f"--constraint {file}.txt" in rest for word, rest in instructions(name)
    )
    tested, pinned = pins("constraints.txt"), pins(f"{file}.txt")
    for requirement in requirements() + (requirements("vllm") if name == "worker" else []):
        package = canonicalize_name(requirement.name)
        assert pinned[package] in requirement.specifier
        assert tested.get(package, pinned[package]) == pinned[package]


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """What an editable install sees anyway must be named to be in an image."""
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps",
            "--wheel-dir", tmp_path, _source(tmp_path),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if not name.startswith("carpool-")}
    assert held == set(_files())


def _source(directory: Path) -> Path:
    """A copy of what `.dockerignore` lets in, so that a build leaves nothing in the checkout."""
    source = directory / "source"
    for name in (*_files(), "pyproject.toml", "README.md", "LICENSE"):
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    return source


def _files() -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not set(path.parts) & set(NOT_SHIPPED)
    ]
