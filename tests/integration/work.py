"""A directory in which commands run against a server, and what they are given there."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from tests.stack import CARPOOL, MODEL, Json, clean_environment

WAIT_SECONDS = 120.0
CHAT_PATH = "/v1/chat/completions"
ASK = ("--model", MODEL)


class Work:
    """A directory in which commands run, as a team's, against a server."""

    def __init__(self, directory: Path, base_url: str, key: str) -> None:
        self.directory = directory
        self.environment = clean_environment() | {
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": key,
            "CARPOOL_DATA_DIR": str(directory / "none"),
            "COLUMNS": "200",
        }

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def read(self, name: str) -> bytes:
        """A file's content; none where there is no file."""
        path = self.directory / name
        return path.read_bytes() if path.exists() else b""

    def objects(self, name: str) -> list[Json]:
        """The lines of a file of results."""
        return [json.loads(line) for line in (self.directory / name).read_bytes().splitlines()]

    def start(
        self, *arguments: str, program: tuple[str, ...] = CARPOOL, stderr: Any = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*program, *arguments],
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """A command that must end with this code."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == code, f"{process.returncode}: {output}{errors}"
        return subprocess.CompletedProcess(arguments, code, output, errors)

    def through(self, base_url: str) -> "Work":
        """The same against another address."""
        return Work(self.directory, base_url, self.environment["OPENAI_API_KEY"])

    @property
    def left(self) -> list[str]:
        """The files that are there."""
        return sorted(path.name for path in self.directory.iterdir())


def request(custom_id: str, **body: Any) -> str:
    """A line in OpenAI's batch format."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": custom_id}], "max_tokens": 2}
    line = {"custom_id": custom_id, "method": "POST", "url": CHAT_PATH, "body": chat | body}
    return json.dumps(line) + "\n"


def prompts(count: int) -> str:
    return "".join(f"prompt number {number}\n" for number in range(1, count + 1))


def pace(milliseconds: int) -> Json:
    return {"carpool_simulate": {"milliseconds_per_token": milliseconds}}


def failing(status: int) -> Json:
    return {"carpool_simulate": {"status": status}}


def batches(client: OpenAI) -> list[Batch]:
    """The team's, oldest first."""
    return list(client.batches.list(limit=100))[::-1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def line_of(process: "subprocess.Popen[str]", pattern: str) -> re.Match[str]:
    """The next line of its stderr that matches."""
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        if match := re.search(pattern, line):
            return match
        told.append(line)
    raise AssertionError(f"no line {pattern!r} in {told}")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code, and what it said on stderr since it was last read."""
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, errors
