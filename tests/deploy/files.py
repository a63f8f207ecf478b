"""Reads the files of `deploy/`, as the programs that they are for do."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

Json = dict[str, Any]
ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
README: Final = (DEPLOY / "README.md").read_text()
_VARIABLE: Final = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:-|:\?)(?P<rest>[^}]*))?\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """The last stage of a Dockerfile: what a container of it is."""

    environment: Mapping[str, str]
    entrypoint: list[str]
    command: list[str]
    healthcheck: list[str]
    user: str
    ports: set[int]
    copied: list[list[str]]
    """The arguments of each COPY of all stages, options left out unless they name a stage."""


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their arguments, in order; comments and breaks are gone."""
    lines = (DEPLOY / f"{name}.Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    whole = text.replace("\\\n", " ").splitlines()
    pairs = (line.split(maxsplit=1) for line in whole if line.strip())
    return [(word.upper(), rest.strip()) for word, rest in pairs]


@cache
def image(name: str) -> Image:
    """What `docker build` makes of a Dockerfile."""
    environment: dict[str, str] = {}
    exec_form: dict[str, list[str]] = {}
    user = ""
    ports: set[int] = set()
    copied = []
    for word, rest in instructions(name):
        match word:
            case "FROM":
                environment, exec_form, user, ports = {}, {}, "", set()
            case "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "ENTRYPOINT" | "CMD":
                exec_form[word] = msgspec.json.decode(rest, type=list[str])
            case "HEALTHCHECK":
                exec_form[word] = msgspec.json.decode(rest.split(" CMD ", 1)[1], type=list[str])
            case "USER":
                user = rest
            case "EXPOSE":
                ports |= {int(port) for port in rest.split()}
            case "COPY":
                copied.append(rest.split())
    return Image(
        environment=environment,
        entrypoint=exec_form["ENTRYPOINT"],
        command=exec_form["CMD"],
        healthcheck=exec_form["HEALTHCHECK"],
        user=user,
        ports=ports,
        copied=copied,
    )


def example_environment() -> dict[str, str]:
    """The variables of `.env.example`."""
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """Compose's substitution in all texts below a value; KeyError for one that must be set."""
    if isinstance(value, dict):
        return {key: interpolate(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def substitute(found: re.Match[str]) -> str:
        given = environment.get(found["name"])
        if found["kind"] == ":-":
            return given or found["rest"]
        if not given and found["kind"] == ":?":
            raise KeyError(found["name"])
        return given or ""

    return _VARIABLE.sub(substitute, value)


def compose(environment: Mapping[str, str] | None = None) -> Json:
    """The compose file, with the variables of `.env.example` or others."""
    text = (DEPLOY / "docker-compose.yml").read_text()
    given = example_environment() if environment is None else environment
    whole: Json = interpolate(yaml.safe_load(text), given)
    return whole


def shell_lines() -> Iterator[str]:
    """The commands in the README's blocks of shell, without comments."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s+#.*", "", line)


def documents(text: str) -> list[Json]:
    """The documents of a stream of YAML."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def manifests(directory: Path, scratch: Path) -> list[Json]:
    """What `kubectl kustomize` makes of a directory of `deploy/kubernetes`.

    Debian's kubectl wants directories under `bases`, where its successors want `resources`.
    """
    copy = scratch / "kubernetes"
    if not copy.exists():
        shutil.copytree(KUBERNETES, copy)
        for file in copy.rglob("kustomization.yaml"):
            own = yaml.safe_load(file.read_text())
            own["bases"] = [name for name in own["resources"] if (file.parent / name).is_dir()]
            own["resources"] = [name for name in own["resources"] if name not in own["bases"]]
            file.write_text(yaml.safe_dump(own))
    built = subprocess.run(
        ["kubectl", "kustomize", str(copy / directory.relative_to(KUBERNETES))],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return documents(built.stdout)
