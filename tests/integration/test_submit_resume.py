"""`carpool submit` loses no row and computes none twice, whatever happens to it."""

import re
import signal
import socket
import sys
import threading
from collections.abc import Callable

import pytest
from openai import OpenAI

from tests.clients import FOREVER
from tests.integration.relay import Answer, relaying
from tests.integration.work import (
    ASK,
    WAIT_SECONDS,
    Work,
    batches,
    ended,
    line_of,
    pace,
    prompts,
    request,
    wait_for,
)
from tests.stack import Stack

KILLED_WHILE_WRITING = """
import os, signal, sys
from cli.bulk import results
from cli.main import main

count = results.Tally.count
def counted(self, result):
    count(self, result)
    if self.succeeded == 7:
        os.kill(os.getpid(), signal.SIGKILL)
results.Tally.count = counted
main()
"""


def test_no_watch_submits_and_resume_gathers(work: Work, client: OpenAI) -> None:
    work.write("a.txt", prompts(5))
    said = work.run("submit", "a.txt", *ASK, "--no-watch")
    (batch,) = batches(client)
    assert said.stdout == f"{batch.id}\n"
    refused = work.run("submit", "a.txt", *ASK, code=2)
    assert "go on with it by --resume" in refused.stderr
    work.run("submit", "a.txt", "--resume")
    assert len(work.objects("a.results.jsonl")) == 5
    assert batches(client)[0].id == batch.id
    assert len(batches(client)) == 1


def test_an_interrupt_leaves_the_batch_and_says_how_to_resume(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", request("fast") + request("slow", **FOREVER))
    process = work.start("submit", "a.jsonl")
    wait_for(lambda: b"\n" in work.read("a.results.jsonl.partial"))
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    (command,) = re.findall(r"Resume by: carpool (.*)", said)
    (batch,) = batches(client)
    assert batch.status == "in_progress"
    assert work.run("batches", "cancel", batch.id).stdout == "cancelling\n"
    work.run(*command.split(), code=4)
    fast, slow = work.objects("a.results.jsonl")
    assert fast["response"]["status_code"] == 200
    assert slow["error"]["code"] == "batch_cancelled"


def test_results_come_while_it_runs(work: Work) -> None:
    work.write("a.jsonl", request("fast") + request("slow", **FOREVER))
    process = work.start("submit", "a.jsonl")
    wait_for(lambda: b"\n" in work.read("a.results.jsonl.partial"))
    (line,) = work.objects("a.results.jsonl.partial")
    assert line["custom_id"] == "fast"
    assert not (work.directory / "a.results.jsonl").exists()
    refused = work.run("submit", "a.jsonl", "--resume", code=2)
    assert "another `carpool submit` is at work" in refused.stderr
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


def has_lines(answer: Answer) -> bool:
    return answer.path.endswith("/results") and bool(answer.body)


KILLS: dict[str, Callable[[Answer], bool]] = {
    "after the upload": lambda a: (a.method, a.path) == ("POST", "/v1/files"),
    "after the creation": lambda a: (a.method, a.path) == ("POST", "/v1/batches"),
    "in mid-run": has_lines,
}


@pytest.mark.parametrize("moment", KILLS)
@pytest.mark.parametrize("which", [1, 2])
def test_a_killed_submission_goes_on_without_doing_anything_twice(
    work: Work, client: OpenAI, stack: Stack, moment: str, which: int
) -> None:
    """Killed when the server has done something, and before the command could hear of it."""
    names = [f"r{number}" for number in range(9)]
    work.write(
        "a.jsonl", "".join(request(name, **pace(200 if name > "r5" else 0)) for name in names)
    )
    seen = 0
    one_at_a_time = threading.Lock()

    def kill(answer: Answer) -> bool:
        nonlocal seen
        with one_at_a_time:
            seen += KILLS[moment](answer)
            if seen != which or not KILLS[moment](answer):
                return False
            process.kill()
            process.wait(WAIT_SECONDS)
            return True

    with relaying(stack.base_url, kill) as relay:
        through = work.through(relay.base_url)
        through.environment["CARPOOL_MAX_BATCH_REQUESTS"] = "4"
        with one_at_a_time:
            process = through.start("submit", "a.jsonl")
        assert ended(process)[0] == -signal.SIGKILL
    work.run("submit", "a.jsonl", "--resume")
    assert [line["custom_id"] for line in work.objects("a.results.jsonl")] == names
    found = batches(client)
    assert [b.request_counts and b.request_counts.completed for b in found] == [4, 4, 1]
    assert len(list(client.files.list(purpose="batch"))) == 3
    assert work.left == ["a.jsonl", "a.results.jsonl", "a.results.jsonl.state.json"]


def test_a_kill_while_the_results_are_written_leaves_all_or_nothing(
    work: Work, client: OpenAI
) -> None:
    work.write("a.txt", prompts(20))
    program = (sys.executable, "-P", "-c", KILLED_WHILE_WRITING)
    process = work.start("submit", "a.txt", *ASK, program=program)
    assert ended(process)[0] == -signal.SIGKILL
    assert not (work.directory / "a.results.jsonl").exists()
    work.run("submit", "a.txt", "--resume")
    assert [row["text"] for row in work.objects("a.results.jsonl")] == prompts(20).splitlines()
    assert len(batches(client)) == 1
    assert work.left == ["a.results.jsonl", "a.results.jsonl.state.json", "a.txt"]


def test_lost_partial_results_are_asked_for_again(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", request("fast") + request("slow", **FOREVER))
    process = work.start("submit", "a.jsonl")
    wait_for(lambda: b"\n" in work.read("a.results.jsonl.partial"))
    process.kill()
    ended(process)
    (work.directory / "a.results.jsonl.partial").write_bytes(b"")
    (batch,) = batches(client)
    work.run("batches", "cancel", batch.id)
    work.run("submit", "a.jsonl", "--resume", code=4)
    fast, slow = work.objects("a.results.jsonl")
    assert (fast["custom_id"], fast["response"]["status_code"]) == ("fast", 200)
    assert (slow["custom_id"], slow["error"]["code"]) == ("slow", "batch_cancelled")
    assert len(batches(client)) == 1


@pytest.mark.parametrize("moment", KILLS)
def test_an_answer_that_is_lost_doubles_nothing(
    work: Work, client: OpenAI, stack: Stack, moment: str
) -> None:
    """The connection breaks when the server has done it."""
    work.write("a.txt", prompts(5))
    broken: list[Answer] = []

    def cut(answer: Answer) -> bool:
        if broken or not KILLS[moment](answer):
            return False
        broken.append(answer)
        return True

    with relaying(stack.base_url, cut) as relay:
        said = work.through(relay.base_url).run("submit", "a.txt", *ASK)
        posted = [answer.path for answer in relay.answers if answer.method == "POST"]
    assert posted == ["/v1/files", "/v1/batches"]
    assert "Trying again" in said.stderr
    assert "answers again" in said.stderr
    assert len(batches(client)) == len(list(client.files.list(purpose="batch"))) == 1
    rows = work.objects("a.results.jsonl")
    assert [row["custom_id"] for row in rows] == [f"row-{number}" for number in range(1, 6)]
    assert all(row["answer"] for row in rows)


def test_a_server_that_is_away_is_waited_for(work: Work, stack: Stack) -> None:
    work.write("a.txt", prompts(5))
    with socket.socket() as kept:  # for the relay: nobody else is given its port
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        process = work.through(f"http://127.0.0.1:{port}/v1").start("submit", "a.txt", *ASK)
        line_of(process, r"The server at 127.0.0.1 is away.*Trying again for up to 10 min")
        with relaying(stack.base_url, port=port):
            code, said = ended(process)
    assert code == 0, said
    assert len(work.objects("a.results.jsonl")) == 5
