"""Rows become requests as the options say; options that would change nothing are refused."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.bulk.faults import BadInput
from cli.bulk.options import Options, parse_metadata, resumed
from cli.bulk.rows import Kind
from cli.bulk.source import Source, settled

CHAT = "/v1/chat/completions"
REQUEST = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m"}}'


def source(path: Path, content: bytes, **options: Any) -> Source:
    path.write_bytes(content)
    kind, given = settled(path, Options(**{"model": "m"} | options))
    return Source(path, kind, given)


def lines(path: Path, content: bytes, **options: Any) -> list[dict[str, Any]]:
    found = list(source(path, content, **options).requests())
    assert all(request.line.count(b"\n") == 1 for request in found)
    return [msgspec.json.decode(request.line) for request in found]


def prompts(path: Path, content: bytes, **options: Any) -> list[str]:
    found = lines(path, content, **options)
    return [line["body"]["messages"][-1]["content"] for line in found]


def refused(path: Path, content: bytes, **options: Any) -> str:
    with pytest.raises(BadInput) as raised:
        lines(path, content, **options)
    return str(raised.value)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def test_a_prompt_becomes_a_chat(jsonl: Path) -> None:
    found = lines(jsonl, b'\n{"prompt":"Hi","n":1}\n"Ho"\n', system="Be brief.", max_tokens=9)
    said = {"role": "system", "content": "Be brief."}
    assert found == [
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": "m",
                "messages": [said, {"role": "user", "content": prompt}],
                "max_completion_tokens": 9,
            },
        }
        for custom_id, prompt in (("row-1", "Hi"), ("row-2", "Ho"))
    ]


@pytest.mark.parametrize(
    ("endpoint", "options", "body"),
    [
        ("/v1/embeddings", {}, {"model": "m", "input": "Hi"}),
        ("/v1/completions", {}, {"model": "m", "prompt": "Hi"}),
        ("/v1/completions", {"max_tokens": 3}, {"model": "m", "prompt": "Hi", "max_tokens": 3}),
        (CHAT, {}, {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_each_endpoint_has_its_body(
    jsonl: Path, endpoint: str, options: dict[str, Any], body: dict[str, Any]
) -> None:
    (line,) = lines(jsonl, b'"Hi"', endpoint=endpoint, **options)
    assert line["url"] == endpoint
    assert line["body"] == body


@pytest.mark.parametrize(
    ("endpoint", "option"),
    [
        ("/v1/embeddings", {"system": "x"}),
        ("/v1/embeddings", {"max_tokens": 1}),
        ("/v1/completions", {"system": "x"}),
        ("/v1/images", {}),
    ],
)
def test_an_endpoint_refuses_what_it_does_not_take(
    jsonl: Path, endpoint: str, option: dict[str, Any]
) -> None:
    told = refused(jsonl, b'"Hi"', endpoint=endpoint, **option)
    assert told.startswith(f"--{next(iter(option), 'endpoint').replace('_', '-')}: ")


def test_a_window_that_is_none_is_refused(jsonl: Path) -> None:
    assert refused(jsonl, b'"Hi"', window="soon").startswith("--window: ")
    assert lines(jsonl, b'"Hi"', window="90m")


def test_the_prompt_is_found(table: Path) -> None:
    assert prompts(table, b"a,prompt,text\n1,2,3\n") == ["2"]
    assert prompts(table, b"a,text\n1,3\n") == ["3"]
    assert prompts(table, b"question\nwhy\n") == ["why"]
    assert prompts(table, b"a,b\n1,2\n", column="b") == ["2"]
    assert prompts(table, b"a,b\n1,2\n", template="{b}-{a}") == ["2-1"]
    assert prompts(table, b"a,b\n1,2\n", template="{text}-{a}", column="b") == ["2-1"]


def test_a_row_without_prompt_is_told_with_its_line(jsonl: Path) -> None:
    content = b'{"a":"x"}\n\n{"a":1,"b":2}\n{"prompt":null}\n{"text":"fine"}\n'
    told = refused(jsonl, content).splitlines()[1:]
    assert told == [
        "  line 3: has no field 'prompt' or 'text'; name one by --column, or use --template",
        "  line 4: has no field 'prompt'",
    ]
    told = refused(jsonl, content, template="{text}{a}").splitlines()[1:]
    assert told == [
        "  line 1: has no field 'text' (and 2 more lines)",
        "  line 5: has no field 'a'",
    ]


def test_custom_ids_may_stand_in_the_file(table: Path) -> None:
    found = lines(table, b"id,text\nx,1\ny,2\n", id_column="id")
    assert [line["custom_id"] for line in found] == ["x", "y"]
    assert "line 2: has no field 'no'" in refused(table, b"id,text\nx,1\n", id_column="no")


def test_requests_pass_through(jsonl: Path) -> None:
    spaced = REQUEST.replace(b'"m"', b' "m" ').replace(b'"a"', b'"b"')
    found = source(jsonl, REQUEST + b"\r\n\n" + spaced, model=None)
    assert found.endpoint == "/v1/embeddings"
    assert found.kind is Kind.REQUESTS
    assert [(r.custom_id, r.line) for r in found.requests()] == [
        ("a", REQUEST + b"\n"),
        ("b", spaced + b"\n"),
    ]


@pytest.mark.parametrize(
    "option",
    [
        {"model": "m"},
        {"template": "{x}"},
        {"system": "x"},
        {"max_tokens": 1},
        {"column": "x"},
        {"id_column": "x"},
    ],
)
def test_requests_refuse_options_that_would_change_nothing(
    jsonl: Path, option: dict[str, Any]
) -> None:
    told = refused(jsonl, REQUEST, **{"model": None} | option)
    assert "is in OpenAI's batch format, and is sent as it is" in told


def test_broken_requests_are_told_with_their_lines(jsonl: Path) -> None:
    content = b"\n".join(
        [
            REQUEST,
            b"{",
            b'{"custom_id":1,"url":"/v1/embeddings","body":{}}',
            REQUEST.replace(b"embeddings", b"completions"),
            b'{"url":"/v1/embeddings","body":{}}',
        ]
    )
    told = refused(jsonl, content, model=None).splitlines()[1:]
    assert [line.split(":")[0] for line in told] == [f"  line {n}" for n in (2, 3, 4, 5)]
    assert "custom_id" in told[1]
    assert "'/v1/completions' is not that of the batch, /v1/embeddings" in told[2]
    assert "custom_id" in told[3]


def test_a_first_request_without_url_is_told(jsonl: Path) -> None:
    told = refused(jsonl, b'\n{"custom_id":"a","body":{}}', model=None)
    assert "line 2: is not a line of OpenAI's batch format" in told


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["a"], "is not key=value"),
        (["=b"], "is not key=value"),
        (["a=1", "a=2"], "'a' is taken"),
        (["carpool_part=1"], "'carpool_part' is taken"),
        ([f"k{n}=v" for n in range(15)], "at most 14 pairs"),
    ],
)
def test_bad_metadata_is_refused(pairs: list[str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_metadata(pairs)


def test_metadata() -> None:
    assert parse_metadata([]) is None
    assert parse_metadata(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


def test_a_resumed_submission_keeps_its_options() -> None:
    begun = Options(model="m", template="{x}", window="24h", metadata={"a": "b"})
    assert resumed(Options(), begun) == begun
    assert resumed(Options(model="m", metadata={"a": "b"}), begun) == begun
    for other in (Options(model="n"), Options(system="s"), Options(metadata={"a": "c"})):
        with pytest.raises(BadInput, match=r"^--(model|system|metadata): the submission was begun"):
            resumed(other, begun)
