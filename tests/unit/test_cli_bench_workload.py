"""The same work goes to each model, whichever form it is given in."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.bench import workload
from cli.bench.prompts import make_prompt
from cli.bench.workload import Body, read_workload, synthetic, warm_up
from cli.bulk.faults import BadInput

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def chat(text: str, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": text}], **fields}


def line(url: str = "/v1/chat/completions", body: Any = None) -> Body:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body or chat("x", model="m")}


def written(directory: Path, name: str, *rows: Any) -> Path:
    path = directory / name
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def bodies(path: Path, **options: Any) -> list[Body]:
    return list(read_workload(path, **{"requests": None, "max_tokens": None} | options).bodies)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        bodies(path, **options)
    return str(caught.value)


def test_made_up_prompts_follow_from_seed_and_number() -> None:
    made = synthetic(requests=50, prompt_tokens=64, max_tokens=9, seed=1)
    assert made == synthetic(requests=50, prompt_tokens=64, max_tokens=9, seed=1)
    assert made != synthetic(requests=50, prompt_tokens=64, max_tokens=9, seed=2)
    assert made.bodies[0] == chat(
        make_prompt(0, tokens=64, seed=1), max_completion_tokens=9, **STREAMED
    )
    assert make_prompt(7, tokens=26, seed=0).endswith("without stopping: power issue")


def test_made_up_prompts_share_no_prefix_and_have_the_length_asked_for() -> None:
    made = [make_prompt(number, tokens=200, seed=0) for number in range(100)]
    assert len({prompt.partition(" ")[0] for prompt in made}) == 100
    assert {len(prompt.split()) for prompt in made} == {191}


def test_the_warm_up_sends_nothing_that_is_measured() -> None:
    measured = synthetic(requests=100, prompt_tokens=256, max_tokens=16, seed=0)
    warm = warm_up(requests=20, seed=0)
    assert len(warm) == 20
    assert not [body for body in warm if body in measured.bodies]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("a.txt", "Hello", chat("Hello")),
        ("a.csv", "prompt,other\nHello,1", chat("Hello")),
        ("a.jsonl", {"prompt": "Hello"}, chat("Hello")),
        ("a.jsonl", '"Hello"', chat("Hello")),
        ("a.jsonl", chat("Hi", model="m", temperature=1), chat("Hi", temperature=1)),
        ("a.jsonl", line(body=chat("Hi", model="m", n=2)), chat("Hi", n=2)),
    ],
)
def test_a_file_may_have_each_form(tmp_path: Path, name: str, row: Any, expected: Body) -> None:
    assert bodies(written(tmp_path, name, row)) == [expected | STREAMED]


def test_each_request_is_streamed_and_tells_its_tokens(tmp_path: Path) -> None:
    row = chat("x", stream=False, stream_options={"include_usage": False, "more": 1})
    (body,) = bodies(written(tmp_path, "a.jsonl", row))
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True, "more": 1}


def test_prompts_have_the_limit_asked_for(tmp_path: Path) -> None:
    (body,) = bodies(written(tmp_path, "a.txt", "x"), max_tokens=5)
    assert body["max_completion_tokens"] == 5


def test_a_file_is_cut_or_repeated(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "one", "two", "three")
    cut = read_workload(path, requests=2, max_tokens=None)
    assert (cut.described, cut.requests, len(cut.bodies)) == ("a.txt", 2, 2)
    repeated = read_workload(path, requests=7, max_tokens=None)
    assert repeated.described == "a.txt (3 of them, repeated)"
    said = [repeated.body(number)["messages"][0]["content"] for number in range(7)]
    assert said == ["one", "two", "three", "one", "two", "three", "one"]


def test_what_is_not_read_is_not_judged(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", {"prompt": "x"}, "broken")
    assert len(bodies(path, requests=1)) == 1
    assert "line 2: is not JSON" in refused(path)


@pytest.mark.parametrize(
    ("name", "rows", "reason"),
    [
        ("a.jsonl", [chat("x"), {"prompt": "y"}], "line 2: has no list 'messages'"),
        ("a.jsonl", [line(), line(url="/v1/embeddings")], "line 2: the url '/v1/embeddings'"),
        (
            "a.jsonl",
            [line(), {"custom_id": "b", "url": "/v1/chat/completions", "body": 3}],
            "line 2",
        ),
        (
            "a.jsonl",
            [line(), json.dumps(line(body={"n": "N"})).replace('"N"', "1e999")],
            "line 2: cannot be sent: Number out of range",
        ),
        ("a.jsonl", [{"a": 1, "b": 2}], "line 1: has no field 'prompt'"),
        ("a.txt", ["", " "], "holds no request"),
        ("a.jsonl", [], "holds no request"),
        ("a.parquet", ["x"], "must end in .jsonl, .ndjson, .csv or .txt"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_its_lines(
    tmp_path: Path, name: str, rows: list[Any], reason: str
) -> None:
    assert reason in refused(written(tmp_path, name, *rows))


def test_a_limit_changes_no_request_that_is_given_whole(tmp_path: Path) -> None:
    for row in (chat("x"), line()):
        message = refused(written(tmp_path, "a.jsonl", row), max_tokens=5)
        assert message.startswith("--max-tokens: ")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "a.jsonl")
    assert "there is no file" in refused(tmp_path)


def test_a_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "MOST_REQUESTS", 2)
    path = written(tmp_path, "a.txt", "one", "two", "three")
    assert "holds more than 2" in refused(path)
    assert len(bodies(path, requests=2)) == 2
