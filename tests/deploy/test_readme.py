"""What deploy/README.md tells operators to type exists."""

import re
import shlex

import pytest

from tests.deploy.commands import parse, unknown
from tests.deploy.files import DEPLOY, README, compose, shell_lines

COMPOSE = "docker compose --file deploy/docker-compose.yml"
LINK = re.compile(r"\]\(([^)#]+)")
TYPED = re.compile(r"(?:^|exec api |-- )carpool (.+)")
"""At the prompt, or in a container."""
FILE = re.compile(r"`((?:kubernetes|overlays|prometheus|grafana)/[^`]*)`")


def test_every_command_of_carpool_exists() -> None:
    typed = [found[1] for line in shell_lines() if (found := TYPED.search(line))]
    named = re.findall(r"`carpool ([a-z][^`]*)`", README)
    assert len(typed) > 5
    assert len(named) > 5
    for command in (*typed, *named):
        parse(shlex.split(command))


def test_every_service_of_a_compose_command_exists() -> None:
    services = compose()["services"]
    asked = [
        line.removeprefix(COMPOSE).split() for line in shell_lines() if line.startswith(COMPOSE)
    ]
    assert asked
    for verb, *rest in asked:
        named = [word for word in rest if not word.startswith("-")]
        first = named[:1] if verb in ("exec", "run") else named
        assert set(first) <= set(services), (verb, rest)


def test_every_variable_and_file_exists() -> None:
    assert not unknown(set(re.findall(r"\bCARPOOL_[A-Z_]+|\bOTEL_[A-Z_]+", README)))
    assert all((DEPLOY / path).exists() for path in LINK.findall(README))
    for path in FILE.findall(README):
        found = path if path.split("/")[0] != "overlays" else f"kubernetes/{path}"
        assert (DEPLOY / found).exists(), path


@pytest.mark.parametrize("example", [".env.example", "README.md"])
def test_no_secret_is_written(example: str) -> None:
    assert not re.search(r"sk-[A-Za-z0-9]{8,}", (DEPLOY / example).read_text())
