"""`carpool submit` shows how far it is: by bars on a terminal, else by plain lines."""

import os
import pty
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.work import ASK, WAIT_SECONDS, Work, prompts


def test_plain_lines_where_there_is_no_terminal(work: Work) -> None:
    work.write("a.txt", prompts(50))
    said = work.run("submit", "a.txt", *ASK).stderr
    assert all(line.startswith("carpool: ") for line in said.splitlines())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)


@pytest.fixture
def terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """A terminal to write to, and what was written once nobody writes to it any more."""
    near, far = pty.openpty()
    written = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(near, 65536):
                written.extend(chunk)
        except OSError:  # Linux's end of a terminal
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def whole() -> str:
        os.close(far)
        reader.join(WAIT_SECONDS)
        return written.decode()

    yield far, whole
    os.close(near)


def test_bars_on_a_terminal(work: Work, terminal: tuple[int, Callable[[], str]]) -> None:
    far, whole = terminal
    work.environment["TERM"] = "xterm-256color"
    work.write("a.txt", prompts(50))
    process = work.start("submit", "a.txt", *ASK, stderr=far)
    process.communicate(timeout=WAIT_SECONDS)
    said = whole()
    assert process.returncode == 0, said
    assert "\x1b[" in said
    assert "━" in said
    assert "50 of 50 done, 0 failed" in said
    assert "50 succeeded" in said
