"""Of errors, and of what libraries log, kinds and places are told, and no value that they hold."""

import json
import subprocess
import sys
from uuid import UUID

import asyncpg
import pytest

from carpool.errors import EngineDied, InvalidRequest, PassingError, Unavailable
from carpool.log import cause

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
for _ in range(5):
    library.warning("said again")
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
