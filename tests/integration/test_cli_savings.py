"""The commands show the same savings and prices as the API."""

import os
import pty
import subprocess
from datetime import UTC, datetime

import pytest

from db.keys import NewKey
from tests.integration.savings import team_name, worked_example
from tests.stack import CARPOOL, Stack

pytestmark = pytest.mark.usefixtures("quiet")

TODAY = datetime.now(UTC).date()


@pytest.mark.usefixtures("terra")
async def test_the_command_prints_lines_where_there_is_no_terminal(
    stack: Stack, team: NewKey
) -> None:
    await worked_example(stack, team)
    name = await team_name(stack, team)
    said = run(stack, "savings", "--team", name, "--since", str(TODAY))
    heading, own, terra, unheard_of, total = [line.split("\t") for line in said.stdout.splitlines()]
    assert dict(zip(heading, terra, strict=True)) == {
        "model": "gpt-6.1-terra",
        "requests": "20",
        "without price": "0",
        "tokens in": "200000",
        "cached": "160000",
        "out": "40000",
        "paid $": "0.126500000",
        "list price $": "0.400000000",
        "saved $": "0.273500000",
        "shared": "0.060000000",
        "cache": "0.040000000",
        "prefix": "0.110250000",
        "window": "0.063250000",
        "own": "0.000000000",
    }
    assert (own[0], own[-1]) == ("assistant", "0.080000000")
    assert (unheard_of[0], unheard_of[2]) == ("unheard-of", "1")
    assert (total[0], total[1], total[7]) == ("total", "25", "0.480000000")


@pytest.mark.usefixtures("terra")
async def test_the_command_prints_a_table_on_a_terminal(stack: Stack, team: NewKey) -> None:
    await worked_example(stack, team)
    shown = on_terminal(stack, "savings", "--team", await team_name(stack, team), "--by", "day")
    heading, day, total, note = shown.splitlines()
    columns = ["day", "requests", "without", "price", "tokens", "in", "cached", "out", "paid", "$"]
    assert heading.split()[: len(columns)] == columns
    assert day.split()[:6] == [str(TODAY), "25", "1", "250,000", "200,000", "50,000"]
    assert total.split()[6:9] == ["0.1265", "0.4800", "0.3535"]
    assert note.startswith("1 requests had no price")


async def test_the_commands_for_prices(stack: Stack) -> None:
    key = ("by-hand", "--since", "2026-11-01", "--backend", "gpu")
    assert run(stack, "prices", "set", *key, "--input", "0.02", "--output", "0.1").stdout == (
        "Set.\n"
    )
    again = run(stack, "prices", "set", *key, "--input", "0.020", "--output", "0.1")
    assert again.stdout == "It is so already.\n"
    listed = run(stack, "prices", "list").stdout
    [line] = [line.split() for line in listed.splitlines() if line.strip().startswith("by-hand")]
    assert line == ["by-hand", "gpu", "2026-11-01T00:00:00+00:00", *["0.02"] * 3, "0.1"]
    assert run(stack, "prices", "delete", *key).stdout == "Deleted.\n"
    assert "by-hand" not in run(stack, "prices", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("savings", "--since", "soon"), "--since: expected a date"),
        (("savings", "--until", "soon"), "--until: expected a date"),
        (("savings", "--team", "nobody-at-all"), "--team: there is no team 'nobody-at-all'"),
        (
            ("prices", "set", "m", "--since", "soon", "--input", "1", "--output", "1"),
            "--since: expected a date",
        ),
        (
            ("prices", "set", "m", "--since", "2026-11-01", "--input", "x", "--output", "1"),
            "--input: ",
        ),
        (("prices", "delete", "m", "--since", "2026-11-01"), "there is no such price"),
    ],
)
async def test_a_mistake_is_one_line(stack: Stack, arguments: tuple[str, ...], reason: str) -> None:
    said = run(stack, *arguments, code=2)
    assert said.stderr.startswith(f"carpool: {reason}")
    assert said.stderr.count("\n") == 1


async def test_a_price_without_date_is_refused_by_the_command(stack: Stack) -> None:
    said = run(stack, "prices", "set", "m", "--input", "1", "--output", "1", code=2)
    assert "--since" in said.stderr


def run(stack: Stack, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, its output to a pipe."""
    said = subprocess.run(
        [*CARPOOL, *arguments, "--data-dir", str(stack.directory)], capture_output=True, text=True
    )
    assert said.returncode == code, said.stderr
    return said


def on_terminal(stack: Stack, *arguments: str) -> str:
    """What the command shows on a terminal without colours."""
    mine, its = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "NO_COLOR": "1"}
    command = [*CARPOOL, *arguments, "--data-dir", str(stack.directory)]
    with subprocess.Popen(command, stdout=its, env=environment) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            shown += piece
    os.close(mine)
    assert process.returncode == 0
    return shown.decode()
