"""Of errors, and of what libraries log, kinds and places are told, and no value that they hold."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog

from carpool.errors import EngineDied, InvalidRequest, PassingError, Unavailable
from carpool.log import LIBRARY_EVENT, REPEAT_SECONDS, REPEATED, Repeats, cause

SECRET = "planted-7c1e"
PROGRAM = f"""
import asyncio, logging, sys, threading, uuid, warnings
import structlog
from carpool import log

log.configure(as_json=True)
ours, library = structlog.get_logger(), logging.getLogger("some.library")

def fail():
    try:
        raise KeyError("{SECRET}")
    except KeyError as error:
        raise ValueError("{SECRET}") from error

async def forget():
    task = asyncio.create_task(asyncio.to_thread(fail))
    await asyncio.wait([task])
    del task

try:
    fail()
except ValueError:
    ours.exception("job_bug", batch=str(uuid.UUID(int=7)), team=3)
    library.error("Failed with %s, %d times: %r", "{SECRET}", 3, "{SECRET}", exc_info=True)
library.info("%s", "{SECRET}")
library.log(35, "as %(text)s", {{"text": "{SECRET}"}})
library.warning("a wrong template %d", "{SECRET}")
for number in range(5):
    library.warning("said again")
    ours.warning("claim_failed", error="Postgres is away")
    ours.warning("group_retried", error="Postgres is away", size=number)
    ours.warning("attempt_failed", request=str(uuid.UUID(int=number)), error="503")
warnings.warn("{SECRET}")
asyncio.run(forget())
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, object]]:
    """What a process logs that fails in many ways, and at last by an error that nobody catches."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert SECRET not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_each_line_has_event_level_and_time(lines: list[dict[str, object]]) -> None:
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


def test_an_exception_is_told_by_kinds_and_places(lines: list[dict[str, object]]) -> None:
    bug = lines[0]
    assert bug["error"] == "ValueError < KeyError"
    assert bug["places"] == ["<string>:21 <module>", "<string>:13 fail"]
    assert bug["batch"] == f"batch_{UUID(int=7).hex}"


def test_libraries_are_told_with_numbers_alone(lines: list[dict[str, object]]) -> None:
    told = [line for line in lines if line["event"] == "library_logged"]
    assert [(line["library"], line["level"], line["message"]) for line in told] == [
        ("some.library", "error", "Failed with <str>, 3 times: '<str>'"),
        ("some.library", "warning", "as <str>"),
        ("some.library", "warning", "a wrong template %d"),
        ("some.library", "warning", "said again"),
        ("py.warnings", "warning", "a warning"),
        ("asyncio", "error", "Task exception was never retrieved"),
    ]


def test_what_is_away_is_said_once(lines: list[dict[str, object]]) -> None:
    said = [line["event"] for line in lines if line.get("error") == "Postgres is away"]
    assert said == ["claim_failed", "group_retried"]
    assert [line["event"] for line in lines].count("attempt_failed") == 5


class Said:
    """What passes of what is said, on a clock that tests turn."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._repeats = Repeats(lambda: self.seconds)

    def __call__(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """The line, or None where it is left out."""
        try:
            return dict(self._repeats(None, "warning", {"event": event} | fields))
        except structlog.DropEvent:
            return None


def test_a_repeat_is_said_after_a_while_with_the_number_of_those_left_out() -> None:
    said = Said()
    line = {"event": "claim_failed", "error": "away"}
    assert said(**line) == line
    for _ in range(29):
        said.seconds += 1
        assert said(**line) is None
    said.seconds = REPEAT_SECONDS
    assert said(**line) == line | {"left_out": 29}
    assert said(**line) is None
    said.seconds *= 3
    assert said(**line) == line | {"left_out": 1}
    said.seconds *= 3
    assert said(**line) == line


def test_other_words_are_said_at_once() -> None:
    said = Said()
    for fields in ({"error": "away"}, {"error": "refused"}, {"error": "away", "backend": "b"}):
        assert said("claim_failed", **fields) is not None
        assert said("claim_failed", **fields) is None
    assert said("look_failed", error="away") is not None


@pytest.mark.parametrize("one", ["request", "batch", "provider_batch"])
def test_what_is_about_one_request_or_batch_is_said_each_time(one: str) -> None:
    said = Said()
    line = {"event": "database_away", "error": "away", one: "the same"}
    assert [said(**line), said(**line)] == [line, line]


def test_few_words_are_remembered() -> None:
    """However many there are; what is forgotten may be said again."""
    said = Said()
    for number in range(10_000):
        assert said("claim_failed", error=str(number)) is not None
        assert len(said._repeats._said) <= 1000


ROOT = Path(__file__).parents[2]
ONCE = {"process_not_left", "run_not_ended"}
"""At the end of a process or run."""


def test_each_warning_that_the_database_is_away_is_of_those_that_repeat_themselves() -> None:
    """Or is about one request; and there is no name that nobody says."""
    away, said = set(), set()
    for package in ("carpool", "db", "workers", "api", "cli"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            said |= {event for event, _ in _warnings(tree)}
            for node in ast.walk(tree):
                if isinstance(node, ast.ExceptHandler) and "DatabaseAway" in _caught(node):
                    away |= {event for event, of_one in _warnings(node) if not of_one}
    assert away - REPEATED == ONCE
    assert REPEATED - said == {LIBRARY_EVENT}


def _caught(handler: ast.ExceptHandler) -> str:
    return "" if handler.type is None else ast.unparse(handler.type)


def _warnings(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """The events that are warned of below a node, and whether each names a request or batch."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.warning":
            names = {keyword.arg for keyword in node.keywords}
            of_one = not names.isdisjoint({"request", "batch", "provider_batch", None})
            yield ast.literal_eval(node.args[0]), of_one


def test_what_nobody_catches_is_told_alike(lines: list[dict[str, object]]) -> None:
    assert [line["event"] for line in lines[-2:]] == ["thread_failed", "process_failed"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(SECRET), "ValueError"),
        (FileNotFoundError(2, "No such file", "/here"), "[Errno 2] No such file: '/here'"),
        (TimeoutError(), "TimeoutError"),
        (asyncpg.exceptions._base.DataError(SECRET), "DataError"),
        (asyncpg.UniqueViolationError(SECRET), "UniqueViolationError (sqlstate 23505)"),
        (InvalidRequest(SECRET, code="invalid_type"), "InvalidRequest (invalid_type)"),
        (Unavailable(SECRET), "Unavailable (service_unavailable)"),
        (PassingError("vLLM answered 500", detail=SECRET), "vLLM answered 500"),
        (EngineDied("The engine has died."), "The engine has died."),
    ],
)
def test_an_errors_summary(error: Exception, told: str) -> None:
    assert SECRET not in cause(error)
    assert cause(error).endswith(told)


def test_the_detail_of_a_passing_error_is_of_its_reason() -> None:
    """What a client and an operator read is whole; only the log is told less."""
    error = PassingError("vLLM answered 500", detail=SECRET)
    assert error.reason == f"vLLM answered 500: {SECRET}"
    assert SECRET.encode() in error.body
