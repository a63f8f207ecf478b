"""`carpool status` shows what the dashboard does: once, live on a terminal, plainly on a pipe."""

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.clients import CHAT
from tests.stack import CARPOOL, Stack, clean_environment

SHOW_CURSOR = b"\x1b[?25h"
LEAVE_SCREEN = b"\x1b[?1049l"
READ_BYTES = 1 << 16


@contextmanager
def status(stack: Stack, *options: str, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command, ended with the context."""
    command = [*CARPOOL, "status", *options, "--data-dir", str(stack.directory)]
    process = subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, env=clean_environment()
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


async def test_it_tells_what_waits_and_why_and_who_serves(stack: Stack, parked: str) -> None:
    key = await stack.new_key("[red]terminal[/red]")
    async with stack.http(key.secret) as http:
        left = await http.post(
            "/chat/completions", json=CHAT | {"model": parked}, headers={"prefer": "respond-async"}
        )
        with status(stack, stdout=subprocess.PIPE) as process:
            output, errors = process.communicate(timeout=60)
        await http.delete(f"/requests/{left.json()['id']}")
    text = output.decode()
    assert (process.returncode, errors) == (0, b"")
    assert "[red]terminal[/red]" in text
    assert f"! No live backend answers '{parked}'" in text
    for word in ("simulated", "up", "worker", "jobs", "answered by"):
        assert word in text


def test_live_on_a_terminal_it_leaves_it_as_it_was(stack: Stack) -> None:
    mine, its = pty.openpty()
    with status(stack, "--watch", stdout=its) as process:
        os.close(its)
        seen = b""
        while seen.count(b"in flight") < 4:
            seen += os.read(mine, READ_BYTES)
        process.send_signal(signal.SIGINT)
        while LEAVE_SCREEN not in seen:
            seen += os.read(mine, READ_BYTES)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert SHOW_CURSOR in seen[seen.rindex(b"in flight") :]
    os.close(mine)


def test_live_on_a_pipe_it_prints_plain_tables(stack: Stack) -> None:
    with status(stack, "--watch", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = b""
        while text.count(b"Processes") < 2:
            text += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"\x1b" not in text
