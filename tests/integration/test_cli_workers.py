"""`carpool workers` drains a worker and resumes it, as the admin API does."""

import subprocess

import pytest

from tests.stack import CARPOOL, Stack, clean_environment, eventually

pytestmark = pytest.mark.usefixtures("quiet")
RUNS = "select count(*) from runs where ended_at is null"


def workers(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end."""
    command = [*CARPOOL, "workers", *arguments, "--data-dir", str(stack.directory)]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(), timeout=60, check=False
    )


def listed(stack: Stack) -> dict[str, list[str]]:
    """The living processes' columns, by kind."""
    lines = [line.split() for line in workers(stack, "list").stdout.splitlines()]
    return {line[1]: line for line in lines if line[0].startswith("proc_") and "dead" not in line}


async def test_a_worker_is_listed_drained_and_resumed(stack: Stack) -> None:
    found = listed(stack)
    assert {"api", "worker", "jobs"} <= set(found)
    identifier = found["worker"][0]
    assert "live" in found["worker"]
    drained = workers(stack, "drain", identifier)
    try:
        assert drained.returncode == 0, drained.stderr
        assert f"{identifier} is " in drained.stdout

        async def idle() -> bool:
            return bool(await stack.value(RUNS) == 0)

        await eventually(idle)
        assert "paused" in listed(stack)["worker"]
    finally:
        resumed = workers(stack, "resume", identifier)
    assert resumed.stdout.strip() == f"{identifier} is live"

    async def serves() -> bool:
        return bool(await stack.value(RUNS) == 1)

    await eventually(serves)


@pytest.mark.parametrize("identifier", ["nonsense", "proc_" + "0" * 32])
def test_what_is_no_worker_is_not_drained(stack: Stack, identifier: str) -> None:
    refused = workers(stack, "drain", identifier)
    assert refused.returncode != 0
    assert "workers: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_process_of_another_kind_is_not_drained(stack: Stack) -> None:
    refused = workers(stack, "drain", listed(stack)["api"][0])
    assert refused.returncode != 0
    assert "no worker" in refused.stderr
