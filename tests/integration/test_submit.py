"""`carpool submit` loses no row and computes none twice, whatever happens to it."""

import csv
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from db.keys import NewKey
from tests.integration.relay import Answer, relaying
from tests.stack import CARPOOL, FOREVER, MODEL, Json, Stack, clean_environment

WAIT_SECONDS = 120.0
CHAT_PATH = "/v1/chat/completions"
ASK = ("--model", MODEL)
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


@pytest.fixture
def work(stack: Stack, team: NewKey, tmp_path: Path) -> Work:
    return Work(tmp_path, stack.base_url, team.secret)


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


def test_prompts_are_answered_in_their_order(work: Work, client: OpenAI) -> None:
    work.write("prompts.txt", prompts(300))
    said = work.run("submit", "prompts.txt", *ASK, "--max-tokens", "3", "--metadata", "for=test")
    found = work.objects("prompts.results.jsonl")
    assert [row["custom_id"] for row in found] == [f"row-{number}" for number in range(1, 301)]
    assert [row["text"] for row in found] == prompts(300).splitlines()
    assert all(row["answer"] and row["error"] is None for row in found)
    assert {row["usage"]["completion_tokens"] for row in found} == {3}
    assert said.stdout == ""
    assert "300 succeeded, 0 failed, 0 were not finished" in said.stderr
    assert work.left == ["prompts.results.jsonl", "prompts.results.jsonl.state.json", "prompts.txt"]
    (batch,) = batches(client)
    assert batch.completion_window == "24h"
    assert batch.metadata is not None
    assert batch.metadata["for"] == "test"


def test_an_answer_is_that_of_its_own_row(work: Work) -> None:
    """The simulation's answer follows from the prompt alone."""
    work.write("a.jsonl", "".join(f'{{"q":"q{n % 7}","n":{n}}}\n' for n in range(100)))
    work.run("submit", "a.jsonl", "--template", "Say {q}", "--model", MODEL)
    by_question: dict[str, set[str]] = {}
    for place, row in enumerate(work.objects("a.results.jsonl")):
        assert row["n"] == place
        by_question.setdefault(row["q"], set()).add(row["answer"])
    assert {len(answers) for answers in by_question.values()} == {1}
    assert len(set.union(*by_question.values())) == 7


def test_openais_format_passes_through(work: Work, client: OpenAI) -> None:
    names = [f"z{number}" for number in range(50, 0, -1)]
    content = "".join(map(request, names))
    work.write("batch.jsonl", content)
    work.run("submit", "batch.jsonl", "--window", "2h", "--priority", "5")
    found = work.objects("batch.results.jsonl")
    assert [line["custom_id"] for line in found] == names
    assert all(line["response"]["status_code"] == 200 for line in found)
    (batch,) = batches(client)
    assert client.files.content(batch.input_file_id).text == content
    assert (batch.completion_window, batch.to_dict()["priority"]) == ("2h", 5)


def test_csv_goes_in_and_out(work: Work) -> None:
    work.write("in.csv", '\ufeffid,question\r\n7,"Why, ""so""\r\nlate?"\r\n8,How\r\n')
    work.run("submit", "in.csv", *ASK, "--column", "question", "--id-column", "id")
    with (work.directory / "in.results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["question"], row["custom_id"]) for row in rows] == [
        ("7", 'Why, "so"\r\nlate?', "7"),
        ("8", "How", "8"),
    ]
    assert all(row["answer"] and not row["error"] for row in rows)


def test_a_large_file_is_split(work: Work, client: OpenAI) -> None:
    work.environment["CARPOOL_MAX_BATCH_REQUESTS"] = "4"
    work.write("a.txt", prompts(10))
    said = work.run("submit", "a.txt", *ASK, "--output", "out.jsonl")
    assert [row["text"] for row in work.objects("out.jsonl")] == prompts(10).splitlines()
    found = batches(client)
    assert [b.request_counts and b.request_counts.total for b in found] == [4, 4, 2]
    assert [b.metadata and b.metadata["carpool_part"] for b in found] == ["1", "2", "3"]
    assert len({b.metadata and b.metadata["carpool_submission"] for b in found}) == 1
    assert "part 3 of 3" in said.stderr


def test_embeddings(work: Work) -> None:
    work.write("a.txt", prompts(3))
    work.run("submit", "a.txt", *ASK, "--endpoint", "/v1/embeddings")
    for row in work.objects("a.results.jsonl"):
        assert all(isinstance(number, float) for number in row["answer"])


def test_some_that_failed_are_told_by_the_exit_code(work: Work) -> None:
    work.write("a.jsonl", request("good") + request("bad", **failing(400)))
    said = work.run("submit", "a.jsonl", "--output", "out.csv", code=3)
    assert "1 succeeded, 1 failed" in said.stderr
    with (work.directory / "out.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["custom_id"], good["error"]) == ("good", "")
    assert (bad["custom_id"], bad["answer"]) == ("bad", "")
    assert "as asked" in bad["error"]
    work.run("submit", "a.jsonl", "--output", "out.csv", "--resume", code=3)


def test_expired_work_is_told_by_the_exit_code(work: Work, parked: str) -> None:
    work.write("a.txt", prompts(5))
    work.run("submit", "a.txt", "--model", parked, "--window", "1s", code=4)
    codes = {row["error"]["code"] for row in work.objects("a.results.jsonl")}
    assert codes == {"batch_expired"}


def test_a_choice_of_models_is_the_persons(work: Work, parked: str) -> None:
    work.write("a.txt", prompts(1))
    said = work.run("submit", "a.txt", code=2)
    assert re.search(rf"--model: say which; the server has .*{parked}", said.stderr)
    assert work.left == ["a.txt"]


def test_bad_input_is_told_before_anything_is_sent(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", '{"text":"x"}\n\n{"txt":"y","z":1}\nnot json\n')
    said = work.run("submit", "a.jsonl", *ASK, code=2)
    assert "line 3: has no field" in said.stderr
    assert "line 4: is not JSON" in said.stderr
    assert work.left == ["a.jsonl"]
    assert list(client.files.list()) == []


def test_what_the_server_refuses_is_told_by_its_lines(work: Work, client: OpenAI) -> None:
    work.environment["CARPOOL_MAX_BATCH_REQUESTS"] = "2"
    wrong = request("c", model="none-such")
    work.write("a.jsonl", "\n" + request("a") + "\n" + request("b") + wrong + request("d"))
    said = work.run("submit", "a.jsonl", code=2)
    assert re.search(r"line 5: .*'none-such' is not supported.* \(model_not_found\)", said.stderr)
    found = work.objects("a.results.jsonl")
    assert [line["error"] is None for line in found] == [True, True, False, False]
    work.run("submit", "a.jsonl", "--resume", code=2)


def test_an_unknown_model_leaves_nothing_in_the_way(work: Work) -> None:
    work.write("a.txt", prompts(3))
    said = work.run("submit", "a.txt", "--model", "none-such", code=2)
    assert "line 1: " in said.stderr
    assert "model_not_found" in said.stderr
    assert work.left == ["a.txt"]
    work.run("submit", "a.txt", *ASK)


def test_what_the_server_will_never_take_leaves_nothing_in_the_way(
    work: Work, client: OpenAI
) -> None:
    work.write("a.txt", prompts(3))
    said = work.run("submit", "a.txt", *ASK, "--metadata", f"a={'x' * 513}", code=2)
    assert "The server says 400" in said.stderr
    assert work.left == ["a.txt"]
    assert not batches(client)
    assert not list(client.files.list())


def test_a_wrong_key_ends_it(work: Work) -> None:
    work.environment["OPENAI_API_KEY"] = "sk-wrong"
    work.write("a.txt", prompts(1))
    said = work.run("submit", "a.txt", *ASK, code=1)
    assert "The server says 401" in said.stderr
    assert "sk-wrong" not in said.stderr
    assert "--resume" in said.stderr


def test_a_dry_run_leaves_nothing(work: Work, client: OpenAI) -> None:
    work.environment["CARPOOL_MAX_BATCH_REQUESTS"] = "2"
    work.write("a.txt", prompts(3))
    said = work.run("submit", "a.txt", *ASK, "--dry-run", "--max-tokens", "5")
    report = dict(re.split(r" {2,}", line, maxsplit=1) for line in said.stdout.splitlines())
    assert report["valid"] == "yes"
    assert report["requests"] == "3 in 2 batches"
    assert re.fullmatch(r"(about )?\d+ in, at most 15 out", report["tokens"])
    assert work.left == ["a.txt"]
    assert batches(client) == []
    assert list(client.files.list()) == []


def test_a_dry_run_tells_what_is_wrong(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", "\n" + request("a") + request("b", model=""))
    said = work.run("submit", "a.jsonl", "--dry-run", code=2)
    assert "line 3: " in said.stderr
    assert said.stdout == ""
    assert list(client.files.list()) == []


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
    line_of(process, r"1 of 2 done")
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

    def kill(answer: Answer) -> bool:
        nonlocal seen
        seen += KILLS[moment](answer)
        if seen == which and KILLS[moment](answer):
            process.kill()
            process.wait(WAIT_SECONDS)
            return True
        return False

    with relaying(stack.base_url, kill) as relay:
        through = work.through(relay.base_url)
        through.environment["CARPOOL_MAX_BATCH_REQUESTS"] = "4"
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
    work.write("a.jsonl", request("fast") + request("slow", **pace(500)))
    process = work.start("submit", "a.jsonl")
    wait_for(lambda: b"\n" in work.read("a.results.jsonl.partial"))
    process.kill()
    ended(process)
    (work.directory / "a.results.jsonl.partial").write_bytes(b"")
    work.run("submit", "a.jsonl", "--resume")
    names = [line["custom_id"] for line in work.objects("a.results.jsonl")]
    assert names == ["fast", "slow"]
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = work.through(f"http://127.0.0.1:{port}/v1").start("submit", "a.txt", *ASK)
    line_of(process, r"The server at 127.0.0.1 is away.*Trying again for up to 10 min")
    with relaying(stack.base_url, port=port):
        code, said = ended(process)
    assert code == 0, said
    assert len(work.objects("a.results.jsonl")) == 5


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


def test_batches_are_looked_after(work: Work, client: OpenAI) -> None:
    work.write("a.jsonl", request("good") + request("bad", **failing(400)))
    work.run("submit", "a.jsonl", code=3)
    (first,) = batches(client)
    again = work.run("batches", "retry", first.id).stdout.strip()
    assert [batch.id for batch in batches(client)] == [first.id, again]
    listed = work.run("batches", "list", "--limit", "5").stdout
    assert listed.index(again) < listed.index(first.id)
    assert first.id not in work.run("batches", "list", "--limit", "1").stdout
    shown = work.run("batches", "show", first.id).stdout
    assert re.search(r"^status +completed$", shown, re.MULTILINE)
    assert re.search(
        r'^request_counts +\{"completed":1,"failed":1,"total":2\}', shown, re.MULTILINE
    )
    names = work.run("batches", "download", first.id).stdout.splitlines()
    assert names == [f"{first.id}.output.jsonl", f"{first.id}.errors.jsonl"]
    assert [line["custom_id"] for name in names for line in work.objects(name)] == ["good", "bad"]
    work.run("batches", "download", first.id, "--output", "mine.jsonl")
    assert {"mine.jsonl", "mine.errors.jsonl"} < set(work.left)


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "download"])
def test_a_batch_that_is_none_is_told(work: Work, command: str) -> None:
    said = work.run("batches", command, f"batch_{'0' * 32}", code=1)
    assert said.stderr.startswith("carpool: The server says 404: ")


def test_what_cannot_be_done_to_a_batch_is_told(work: Work, client: OpenAI) -> None:
    work.write("a.txt", prompts(1))
    work.run("submit", "a.txt", *ASK)
    (batch,) = batches(client)
    cancelled = work.run("batches", "cancel", batch.id, code=1)
    assert "Cannot cancel a batch with status 'completed'." in cancelled.stderr
    assert "The server says 400" in work.run("batches", "retry", batch.id, code=2).stderr
