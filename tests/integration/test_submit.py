"""`carpool submit` answers each row in its place, and tells what it cannot take."""

import csv
import re

from openai import OpenAI

from db.keys import NewKey
from tests.integration.work import (
    ASK,
    WAIT_SECONDS,
    Work,
    batches,
    ended,
    failing,
    prompts,
    request,
)
from tests.stack import MODEL, Stack, eventually

EXPIRE = """
update batches set expires_at = now()
where key_id = $1 and status = 1 and ingested = total
returning id
"""


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


async def test_expired_work_is_told_by_the_exit_code(
    work: Work, stack: Stack, team: NewKey, parked: str
) -> None:
    """Its window ends when all of it waits."""
    work.write("a.txt", prompts(5))
    process = work.start("submit", "a.txt", "--model", parked, "--window", "1h")
    await eventually(lambda: stack.fetch(EXPIRE, team.id), WAIT_SECONDS)
    assert ended(process)[0] == 4
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
