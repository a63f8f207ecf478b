"""`carpool routes`: an operator sees, sets and deletes routes of a Carpool that runs."""

import asyncio
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.clients import CHAT
from tests.stack import CARPOOL, Stack, clean_environment, eventually, stack_in_temporary_directory

CONFIG = """
[backends.own]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.house]
backends = ["own"]
"""
LINE = "own,class=flex+batch,share=12.5% | own=big | own,after=20s"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one backend and one model."""
    config: Path = tmp_path_factory.mktemp("routes") / "carpool.toml"
    config.write_text(CONFIG)
    with stack_in_temporary_directory(options=("--config", str(config))) as stack:
        yield stack


def started(stack: Stack, *words: str | bytes) -> subprocess.Popen[str]:
    """The command, begun."""
    command: list[str | bytes] = [*CARPOOL, "routes", *words[:1]]
    return subprocess.Popen(
        [*command, "--data-dir", str(stack.directory), "--", *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment() | {"NO_COLOR": "1"},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it printed, errors after the rest."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def routes(stack: Stack, *words: str | bytes) -> tuple[int, str]:
    """Run it to its end."""
    return ended(started(stack, *words))


async def asked(stack: Stack, model: str) -> int:
    async with stack.http() as http:
        return (await http.post("/chat/completions", json=CHAT | {"model": model})).status_code


async def served(stack: Stack, models: list[str]) -> bool:
    """Whether the API knows these models and no others, as it soon does after a change."""
    async with stack.http() as http:
        return [found["id"] for found in (await http.get("/models")).json()["data"]] == models


async def test_a_route_is_set_listed_obeyed_deleted_and_remembered(house: Stack) -> None:
    code, printed = await asyncio.to_thread(routes, house, "set", "desk", *LINE.split(" | "))
    assert (code, printed) == (0, f"desk: nothing -> {LINE}\n")
    await eventually(partial(served, house, ["desk", "house"]))
    assert await asked(house, "desk") == 200
    code, printed = await asyncio.to_thread(routes, house, "list")
    lines = [line.split(maxsplit=1) for line in printed.splitlines()]
    assert code == 0
    assert [(model, legs.strip()) for model, legs in lines[1:]] == [
        ("desk", LINE),
        ("house", "own"),
    ]
    code, printed = await asyncio.to_thread(routes, house, "delete", "desk")
    assert (code, printed) == (0, f"desk: {LINE} -> nothing\n")
    await eventually(partial(served, house, ["house"]))
    assert await asked(house, "desk") == 404
    code, printed = await asyncio.to_thread(routes, house, "history", "desk")
    assert code == 0
    assert [line.count(LINE) for line in printed.splitlines()[1:]] == [1, 1]
    assert printed.count("cli:") == 2


async def test_bad_input_is_told_in_a_line_with_exit_code_2_and_changes_nothing(
    house: Stack,
) -> None:
    before = await house.value("select version from routing")
    bad: list[tuple[tuple[str | bytes, ...], str]] = [
        (("set", "desk", "nowhere"), "no backend 'nowhere'; there is: own."),
        (("set", "desk"), "no legs"),
        (("set", "desk", "own,colour=red"), "Unknown condition 'colour'"),
        (("set", "desk", "own,share=60%"), "no leg takes the rest"),
        (("set", "desk", "own,share=nan"), "no leg"),
        (("set", "desk", "own,max-price=inf"), "no leg"),
        (("set", "", "own"), "1 to 256 characters"),
        (("set", "d" * 1000, "own"), "1 to 256 characters"),
        (("set", b"d\xff", "own"), "UTF-8"),
        (("set", "desk", b"own=d\xff"), "no leg"),
        (("set", "desk", *["own"] * 65), "64 legs"),
        (("delete", "nothing"), "no route of a model 'nothing'"),
    ]
    commands = []
    for place in range(0, len(bad), 4):
        group = [started(house, *words) for words, _ in bad[place : place + 4]]
        commands += [await asyncio.to_thread(ended, process) for process in group]
    for (words, reason), (code, printed) in zip(bad, commands, strict=True):
        assert code == 2, (words, printed)
        assert reason in printed
        assert "Traceback" not in printed
        assert len(printed.splitlines()) == 1, printed
    assert await house.value("select version from routing") == before
