"""A body that cannot be run is refused in OpenAI's shape, which names the place; none is stored."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, UnprocessableEntityError

from db.keys import NewKey
from tests.clients import CHAT, Requests, Stock
from tests.stack import Json, Stack

LONG = CHAT | {"messages": [{"role": "user", "content": "word " * 9000}]}

pytestmark = pytest.mark.usefixtures("quiet")

TABLES = ("requests", "queue", "results", "attempts", "idempotency_keys")
MESSAGES: list[Any] = CHAT["messages"]
JSON = {"content-type": "application/json"}


@pytest.fixture
async def nothing_stored(stack: Stack, team: NewKey) -> AsyncIterator[None]:
    """No row of any table that holds requests is added by the test.

    Of its own team: what other tests have left may still end meanwhile. A retry that takes an old
    request over has a row without a team.
    """
    before = await _rows(stack, team)
    yield
    assert await _rows(stack, team) == before


async def _rows(stack: Stack, team: NewKey) -> Any:
    mine = "where team_id = (select team_id from keys where id = $1)"
    counts = [f"(select count(*) from {table} {mine}) as {table}" for table in TABLES]
    counts.append("(select count(*) from reattachments) as reattachments")
    return await stack.fetch(f"select {', '.join(counts)}", team.id)


def error_of(answer: httpx.Response) -> Json:
    """OpenAI's error object, checked."""
    error: Json = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    return error


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b'{"model": "simulated",',
        b'{"model": "simulated" "messages": []}',
        b"{'model': 'simulated'}",
        b'{"model": NaN}',
        b'\xef\xbb\xbf{"model": "simulated"}',
        '{"model": "simulated"}'.encode("utf-16"),
        msgspec.json.encode(CHAT)[:-1] + b"\x00}",
        b"model=simulated",
    ],
    ids=range(10),
)
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings"])
async def test_what_is_not_json(requests: Requests, path: str, content: bytes) -> None:
    answer = await requests.http.post(path, content=content, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_json"


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("content", [b"null", b"[]", b'"text"', b"7"])
async def test_what_is_no_object(requests: Requests, content: bytes) -> None:
    answer = await requests.http.post("/chat/completions", content=content, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_type"


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"top_p": -1}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": []}, "stream_options", "invalid_type"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": 7}, "stop", "invalid_type"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"user": 7}, "user", "invalid_type"),
        ({"service_tier": []}, "service_tier", "invalid_type"),
        ({"messages": "Hello"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": ["Hello"]}, "messages[0]", "invalid_type"),
        ({"messages": [*MESSAGES, {"role": 7}]}, "messages[1].role", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"model": 7}, "model", "invalid_type"),
        ({"model": ""}, "model", "empty_array"),
        ({"metadata": {"k": 7}}, "metadata", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "invalid_value"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "invalid_value"),
        ({"logit_bias": {"5": "much"}}, "logit_bias", "invalid_type"),
        ({"safety_identifier": "s" * 129}, "safety_identifier", "invalid_value"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
async def test_a_wrong_value_is_named(stock: Stock, changes: Json, param: str, code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        await stock(
            lambda client: client.post("/chat/completions", cast_to=object, body=CHAT | changes)
        )
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in caught.value.message
    assert caught.value.request_id


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat/completions", {"messages": MESSAGES}, "model"),
        ("/chat/completions", {"model": "simulated"}, "messages"),
        ("/completions", {"model": "simulated"}, "prompt"),
        ("/embeddings", {"model": "simulated"}, "input"),
        ("/embeddings", {"input": "x"}, "model"),
    ],
)
async def test_what_is_missing_is_named(client: OpenAI, path: str, body: Json, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post(path, cast_to=object, body=body)
    assert caught.value.param == param
    assert caught.value.code == "missing_required_parameter"
    assert caught.value.message.endswith(f"Missing required parameter: '{param}'.")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/completions", {"prompt": []}, "prompt"),
        ("/completions", {"prompt": [1.5]}, "prompt[0]"),
        ("/completions", {"prompt": {}}, "prompt"),
        ("/completions", {"prompt": [1, "a"]}, "prompt"),
        ("/completions", {"prompt": ["a", [1]]}, "prompt"),
        ("/completions", {"prompt": "x", "best_of": 0}, "best_of"),
        ("/completions", {"prompt": "x", "logprobs": True}, "logprobs"),
        ("/embeddings", {"input": []}, "input"),
        ("/embeddings", {"input": ""}, "input"),
        ("/embeddings", {"input": [[1], 1]}, "input"),
        ("/embeddings", {"input": "x", "dimensions": 0}, "dimensions"),
        ("/embeddings", {"input": "x", "stream": True}, "stream"),
    ],
)
async def test_the_other_endpoints_name_what_is_wrong(
    client: OpenAI, path: str, body: Json, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post(path, cast_to=object, body={"model": "simulated", **body})
    assert caught.value.param == param


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("model", ["nowhere", "Simulated", " ", "\U0001f697"])
async def test_an_unknown_model_is_not_found(stock: Stock, model: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await stock(lambda client: client.chat.completions.create(**CHAT | {"model": model}))
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


@pytest.mark.usefixtures("nothing_stored")
async def test_a_name_of_a_model_without_end_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(**CHAT | {"model": "m" * 300})
    assert caught.value.param == "model"


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    "deep",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
    ],
    ids=["lists", "objects", "unclosed"],
)
@pytest.mark.parametrize("field", [b"of_next_year", b"tools", b"metadata", b"messages"])
async def test_what_is_nested_without_end(requests: Requests, deep: bytes, field: bytes) -> None:
    content = msgspec.json.encode(CHAT)[:-1] + b',"%b":%b}' % (field, deep)
    answer = await requests.http.post("/chat/completions", content=content, headers=JSON)
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize("depth", [100, 800, 900, 930, 950, 960, 970, 980, 990])
async def test_what_is_nested_deeply_is_refused_or_answered(requests: Requests, depth: int) -> None:
    """At no depth does the API take what the worker then cannot read."""
    deep = b"[" * depth + b"]" * depth
    content = msgspec.json.encode(CHAT)[:-1] + b',"of_next_year":%b}' % deep
    answer = await requests.http.post("/chat/completions", content=content, headers=JSON)
    assert answer.status_code in (200, 400)


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("temperature", "1e999"),
        ("temperature", "9" * 400),
        ("seed", "9" * 5000),
        ("seed", "1e5"),
        ("n", "9" * 30),
        ("max_tokens", "-" + "9" * 30),
        ("temperature", "-0x1"),
    ],
    ids=range(7),
)
async def test_a_number_out_of_range(requests: Requests, field: str, number: str) -> None:
    content = msgspec.json.encode(CHAT)[:-1] + f',"{field}":{number}}}'.encode()
    answer = await requests.http.post("/chat/completions", content=content, headers=JSON)
    assert answer.status_code == 400
    error_of(answer)


async def test_a_huge_number_that_carpool_does_not_read_is_the_models(requests: Requests) -> None:
    content = msgspec.json.encode(CHAT)[:-1] + b',"of_next_year":' + b"9" * 100_000 + b"}"
    answer = await requests.http.post("/chat/completions", content=content, headers=JSON)
    assert answer.status_code == 200


async def test_a_huge_string_is_only_text(requests: Requests) -> None:
    body = CHAT | {"messages": [{"role": "user", "content": "a" * 5_000_000}]}
    answer = await requests.http.post("/chat/completions", json=body)
    assert answer.status_code == 200
    assert (await requests.http.post("/completions", json=body | {"prompt": ""})).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context(stock: Stock, stream: bool) -> None:
    """A real 400 in both, raised before the first chunk, which leaves nothing stored.

    Only the engine can count its tokens: the request is taken in, and forgotten when it is refused.
    """
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda client: client.chat.completions.create(**LONG, stream=stream))
    error = caught.value
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert error.response.headers["content-type"] == "application/json"
    with pytest.raises(NotFoundError):
        await stock(lambda client: client.get(f"/requests/{error.request_id}", cast_to=object))
    assert (await stock(lambda client: client.get("/requests", cast_to=object)))["data"] == []


async def test_a_refusal_under_an_idempotency_key_frees_the_key(requests: Requests) -> None:
    headers = {"idempotency-key": "k"}
    for _ in range(2):
        answer = await requests.http.post("/chat/completions", json=LONG, headers=headers)
        assert answer.status_code == 400
        assert await requests.ids() == []
    answer = await requests.http.post("/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200


async def test_two_of_one_key_that_is_refused(requests: Requests) -> None:
    """Both get the refusal, in whatever order they are told and the key is freed."""
    headers = {"idempotency-key": "k"}
    for _ in range(10):
        answers = await asyncio.gather(
            *(requests.http.post("/chat/completions", json=LONG, headers=headers) for _ in range(4))
        )
        assert {answer.status_code for answer in answers} <= {400, 503}
        assert 400 in {answer.status_code for answer in answers}
        assert await requests.ids() == []


async def test_a_refusal_that_no_connection_waited_for_is_kept(requests: Requests) -> None:
    """Who asked to be told later must be able to look it up."""
    headers = {"prefer": "respond-async"}
    answer = await requests.http.post("/chat/completions", json=LONG, headers=headers)
    identifier = answer.json()["id"]
    found = (await requests.http.get(f"/requests/{identifier}", params={"wait": 30})).json()
    assert (found["status"], found["attempts"]) == ("failed", 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_lasting_error_of_the_engine_is_raised_once(stock: Stock, stream: bool) -> None:
    with pytest.raises(UnprocessableEntityError) as caught:
        await stock(
            lambda client: client.with_options(max_retries=3).chat.completions.create(
                **CHAT, stream=stream, extra_body={"carpool_simulate": {"status": 422}}
            )
        )
    assert caught.value.code == "simulated"
    assert caught.value.response.headers["x-should-retry"] == "false"
    listed = await stock(lambda client: client.get("/requests", cast_to=object))
    assert len(listed["data"]) == 1


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat/completions", 405),
        ("PUT", "/completions", 405),
        ("DELETE", "/embeddings", 405),
        ("POST", "/models", 405),
        ("POST", "/models/simulated", 405),
        ("POST", "/requests", 405),
        ("PATCH", "/requests/req_1", 405),
        ("GET", "/nothing", 404),
        ("POST", "/chat", 404),
        ("GET", "/requests/req_1/nothing", 404),
        ("OPTIONS", "/chat/completions", 405),
    ],
)
async def test_a_way_that_there_is_not(
    requests: Requests, method: str, path: str, status: int
) -> None:
    answer = await requests.http.request(method, path, json=CHAT)
    assert answer.status_code == status
    error = error_of(answer)
    assert path in error["message"]
    if status == 405:
        assert answer.headers["allow"]


async def test_all_of_it_at_once_hinders_nobody(requests: Requests) -> None:
    """A hundred good requests among a hundred bad ones."""
    bad = [b"[" * 50_000, b"{", b"\xff", b'{"model":"nowhere","messages":[{"role":"x"}]}']
    good = msgspec.json.encode(CHAT)
    answers = await asyncio.gather(
        *(
            requests.http.post("/chat/completions", content=content, headers=JSON)
            for content in [good, *bad] * 25
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses[::5] == [200] * 25
    assert set(statuses) == {200, 400, 404}
