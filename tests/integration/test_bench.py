"""`carpool bench` tells two real backends apart by their pace, and whatever ends it is told."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.relay import Answer, relaying
from tests.integration.work import Work, ended, line_of
from tests.stack import Json, Stack, stack_in_temporary_directory

FAST_MS = 1
SLOW_MS = 25
SLOW_FIRST_MS = 250
CONFIG = f"""
[backends.fast]
kind = "simulated"
first_token_milliseconds = {FAST_MS}
token_milliseconds = {FAST_MS}
[backends.slow]
kind = "simulated"
first_token_milliseconds = {SLOW_FIRST_MS}
token_milliseconds = {SLOW_MS}
[backends.asleep]
kind = "simulated"
first_token_milliseconds = 600000
[models.own]
backends = ["fast"]
upstream = "simulated"
[models.gpt]
backends = ["slow"]
upstream = "simulated"
[models.asleep]
backends = ["asleep"]
upstream = "simulated"
[[prices]]
model = "gpt"
since = 2020-01-01
input = 1
output = 5
"""
BOTH = ("bench", "--models", "own,gpt")
OUTPUT = ("--output-dir", "out")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "carpool.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def paced(config: Path) -> Iterator[Stack]:
    """A Carpool with backends of different pace behind two model names, and one that sleeps."""
    with stack_in_temporary_directory(options=("--config", str(config))) as started:
        yield started


@pytest.fixture
def work(paced: Stack, tmp_path: Path) -> Work:
    return Work(tmp_path, paced.base_url, paced.api_key)


def report(work: Work) -> Json:
    found: Json = json.loads(work.read("out/report.json"))
    return found


def summaries(found: Json) -> dict[str, Json]:
    return {one["model"]: one for one in found["summaries"]}


def chat(content: str, **knobs: Any) -> str:
    body: Json = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return json.dumps(body | ({"carpool_simulate": knobs} if knobs else {})) + "\n"


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The base URL of a server that gives one and the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - named by http.server

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timed
def test_the_slower_model_is_slower_by_its_pace(paced: Stack, work: Work, config: Path) -> None:
    """A backend sleeps no shorter than its pace, and that is much more than a machine adds."""
    del work.environment["OPENAI_BASE_URL"], work.environment["OPENAI_API_KEY"]
    local = ("--data-dir", str(paced.directory), "--config", str(config))
    load = ("--requests", "24", "--concurrency", "4", "--max-tokens", "10", "--seed", "7")
    before = datetime.now().astimezone()
    said = work.run(*BOTH, *OUTPUT, *local, *load, "--price", "own=0.1/0.2")
    found = report(work)
    assert before < datetime.fromisoformat(found["began_at"]) < datetime.now().astimezone()
    own, gpt = summaries(found)["own"], summaries(found)["gpt"]
    for one in (own, gpt):
        assert (one["requests"], one["succeeded"], one["errors"]) == (24, 24, {})
        assert one["output_tokens"] == 240
        assert one["requests_per_second"] == pytest.approx(24 / one["seconds"])
        for name in ("first_token", "token", "latency"):
            assert sorted(one[name].values()) == [
                one[name][p] for p in ("p50", "p90", "p95", "p99")
            ]
    assert own["input_tokens"] == gpt["input_tokens"] > 24 * 200
    assert SLOW_FIRST_MS <= gpt["first_token"]["p50"] * 1000 < 4 * SLOW_FIRST_MS
    assert 0.9 * SLOW_MS <= gpt["token"]["p50"] * 1000 < 4 * SLOW_MS
    assert own["first_token"]["p50"] * 1000 < SLOW_FIRST_MS
    assert 2 * own["token"]["p50"] < gpt["token"]["p50"]
    assert gpt["latency"]["p50"] * 1000 >= SLOW_FIRST_MS + 9 * SLOW_MS
    assert own["requests_per_second"] > 1.5 * gpt["requests_per_second"]
    assert own["dollars"] == pytest.approx((own["input_tokens"] * 0.1 + 240 * 0.2) / 1e6)
    assert gpt["dollars"] == pytest.approx((gpt["input_tokens"] * 1 + 240 * 5) / 1e6)
    assert [one["answer"] for one in found["verdicts"]] == ["keeps up with"]
    assert "own keeps up with gpt: " in said.stdout
    assert re.search(r"^model +own +gpt$", said.stdout, re.MULTILINE)
    assert re.search(r"^requests +24 +24$", said.stdout, re.MULTILINE)
    assert "48 of 48 done, 0 failed" in said.stderr
    _check_turns(found["samples"], concurrency=4)
    _check_page(work)


def _check_turns(samples: list[Json], concurrency: int) -> None:
    """Each model had all lanes, and nothing of another one beside it; the second round goes the
    other way round."""
    samples.sort(key=itemgetter("began"))
    turns = [model for model, _ in groupby(samples, key=itemgetter("model"))]
    assert turns == ["own", "gpt", "own"]
    last_end = 0.0
    for _, block in groupby(samples, key=itemgetter("block")):
        members = list(block)
        assert members[0]["began"] >= last_end
        last_end = max(map(_end, members))
        beside = [
            sum(other["began"] <= one["began"] < _end(other) for other in members)
            for one in members
        ]
        assert max(beside) == concurrency


def _end(sample: Json) -> float:
    return float(sample["began"] + sample["seconds"])


def _check_page(work: Work) -> None:
    """It is whole, and fetches nothing."""
    page = work.read("out/report.html").decode()
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert "own keeps up with gpt: " in page
    assert "plotly.js v" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)\s*=", page)


def test_a_file_goes_to_each_model_and_failures_are_counted_by_code(work: Work) -> None:
    """A refusal, and an error in the middle of a stream."""
    rows = (chat("fine"), chat("bad", status=400), chat("broken", status=400, break_after=2))
    work.write("chats.jsonl", "".join(rows))
    load = ("--input", "chats.jsonl", "--concurrency", "2", "--requests", "7")
    said = work.run(*BOTH, *OUTPUT, *load, code=3)
    found = report(work)
    assert found["setup"]["workload"] == "chats.jsonl (3 of them, repeated)"
    for one in summaries(found).values():
        assert (one["requests"], one["succeeded"], one["output_tokens"]) == (7, 3, 12)
        assert one["errors"] == {"400 simulated": 2, "in the stream simulated": 2}
    assert found["verdicts"][0]["answer"] == "cannot be compared with"
    assert any("simulated" in note for note in found["notes"])
    assert re.search(r"^400 simulated +2 \(28.6%\) +2 \(28.6%\)$", said.stdout, re.MULTILINE)
    assert "failed with status 400, as asked" in work.read("out/report.html").decode()


def test_a_connection_that_breaks_is_a_failure_of_its_own(paced: Stack, work: Work) -> None:
    """The warm-up takes four requests, two of each model."""
    asked = 0

    def hang_up(answer: Answer) -> bool:
        nonlocal asked
        asked += answer.method == "POST"
        return answer.method == "POST" and asked > 4 and b"gpt" in answer.body

    with relaying(paced.base_url, hang_up) as relay:
        work.through(relay.base_url).run(
            *(*BOTH, *OUTPUT, "--requests", "6", "--concurrency", "2", "--max-tokens", "2"),
            code=3,
        )
    found = summaries(report(work))
    assert found["own"]["errors"] == {}
    assert found["gpt"]["errors"] == {"connection": 6}
    assert found["gpt"]["latency"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bench", "--models", "own,gpt-7"), "--models: the server has no 'gpt-7'; it has "),
        ((*BOTH, "--output-dir", "file/out"), "--output-dir: cannot write to file/out: Not a"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    work: Work, arguments: tuple[str, ...], reason: str
) -> None:
    """What needs no server to be told is in tests/unit/test_cli_bench_options.py."""
    work.write("file", "x")
    said = work.run(*arguments, code=2)
    assert said.stderr.startswith(f"carpool: {reason}")
    assert said.stderr.count("\n") == 1
    assert work.left == ["file"]


def test_a_server_that_cannot_be_asked_is_told_in_one_line(paced: Stack, work: Work) -> None:
    away = work.through("http://127.0.0.1:1/v1").run(*BOTH, code=1)
    assert away.stderr.startswith("carpool: The server at 127.0.0.1 is away")
    refused = Work(work.directory, paced.base_url, "sk-carpool-none").run(*BOTH, code=1)
    assert refused.stderr.startswith("carpool: The server says 401: ")
    assert (away.stderr + refused.stderr).count("\n") == 2
    assert work.left == []


def test_a_server_that_is_none_is_told_in_one_line(work: Work) -> None:
    """It answers HTML to all that it is asked."""
    with answering(b"<html>busy</html>") as base_url:
        said = work.through(base_url).run(*BOTH, code=1)
    assert said.stderr.startswith("carpool: the server's list of models makes no sense: ")
    assert said.stderr.count("\n") == 1


def test_a_model_that_answers_nothing_is_told_before_anything_is_measured(work: Work) -> None:
    with answering(b'{"data":[{"id":"own"},{"id":"gpt"}]}') as base_url:
        said = work.through(base_url).run(*BOTH, code=1)
    assert said.stderr.endswith(
        "\ncarpool: own answers nothing: The stream ended before its end.\n"
    )
    assert work.left == []


def test_a_report_is_not_written_over(work: Work) -> None:
    (work.directory / "out").mkdir()
    work.write("out/report.html", "mine")
    said = work.run(*BOTH, *OUTPUT, code=2)
    assert said.stderr == "carpool: --output-dir: out has a report.html already\n"
    assert work.read("out/report.html") == b"mine"


def test_an_interrupt_leaves_the_report_of_what_is_done(work: Work) -> None:
    process = work.start(*BOTH, *OUTPUT, "--requests", "5000", "--max-tokens", "2")
    line_of(process, r"[1-9][\d,]* of 10,000 done")
    process.send_signal(signal.SIGINT)
    code, errors = ended(process)
    assert code == 130
    assert "Interrupted; the report is of what was done by now." in errors
    assert "Traceback" not in errors
    found = report(work)
    assert found["interrupted"] is True
    assert 1 <= len(found["samples"]) < 10_000
    assert sum(one["requests"] for one in found["summaries"]) == len(found["samples"])
    assert [one["errors"] for one in found["summaries"]] == [{}, {}]
    assert "It was interrupted" in work.read("out/report.html").decode()


def test_an_interrupt_before_anything_is_measured_leaves_no_report(work: Work) -> None:
    process = work.start("bench", "--models", "asleep,own", *OUTPUT)
    line_of(process, "Warming up asleep, own")
    process.send_signal(signal.SIGINT)
    code, errors = ended(process)
    assert (code, errors) == (130, "carpool: Interrupted; nothing was measured.\n")
    assert work.left == []
