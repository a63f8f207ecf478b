"""A chat becomes a response and back with nothing lost; what would lose anything stays as it is."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as StockResponse
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from carpool.errors import PassingError
from workers.backends.openai_body import NotAnAnswerError
from workers.backends.protocol import Answer
from workers.provider_batches.responses_answer import LASTING, Response, answer, completion
from workers.provider_batches.responses_body import (
    METADATA_KEY,
    UntranslatableError,
    request,
)

Json = dict[str, Any]
PARAMS: TypeAdapter[ResponseCreateParamsNonStreaming] = TypeAdapter(
    ResponseCreateParamsNonStreaming
)
IMAGE = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
SCHEMA: Json = {"type": "object", "properties": {"a": {"maximum": 10**30, "const": 1.10}}}
texts = st.text(st.characters(exclude_categories=["Cs"]))


def chat(**fields: Any) -> Json:
    return {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Who?"}]} | fields


def translated(**fields: Any) -> Json:
    """What is sent for a chat, as the stock types accept it."""
    made = request(json.dumps(chat(**fields)).encode(), window="8h", name="ours")
    body: Json = json.loads(made.body)
    PARAMS.validate_python(body)
    return body


def response(**fields: Any) -> Json:
    """A response that is completed, unless told otherwise, as the stock types show one."""
    whole: Json = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000.0,
        "status": "completed",
        "model": "gpt-6-luna-2026-11-01",
        "output": [message("I am.")],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage(),
    } | fields
    StockResponse.model_validate(whole)
    return whole


def message(*texts_: str, **fields: Any) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts_]
    whole = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return whole | {"content": content} | fields


def usage(**fields: Any) -> Json:
    return {
        "input_tokens": 1200,
        "input_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 100},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 1230,
    } | fields


def read(whole: Json) -> Response:
    return msgspec.json.decode(json.dumps(whole).encode(), type=Response)


def completed(**fields: Any) -> ChatCompletion:
    """What a stock client reads of a response."""
    return ChatCompletion.model_validate_json(completion(read(response(**fields))), strict=True)


def test_what_the_window_needs_stands_in_the_body() -> None:
    body = translated(metadata={"mine": "1"}, service_tier="flex", stream=False, n=1)
    assert body == {
        "model": "gpt-6-luna",
        "input": [{"role": "user", "content": "Who?"}],
        "metadata": {"mine": "1", METADATA_KEY: "ours"},
        "service_tier": "default",
        "background": True,
        "background_options": {"completion_window": "8h"},
        "store": True,
    }


def test_a_whole_conversation_is_told_in_its_order() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    url = {"url": IMAGE, "detail": "low"}
    body = translated(
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "This?"},
                    {"type": "image_url", "image_url": url},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I look.",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": calls,
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a dog"},
            {"role": "assistant", "content": None, "tool_calls": [calls[0] | {"id": "c2"}]},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "a cat"}]},
        ]
    )
    called = {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}
    assert body["input"] == [
        {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "This?"},
                {"type": "input_image", "image_url": IMAGE, "detail": "low"},
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
            ],
        },
        {"role": "assistant", "content": "I look."},
        called | {"call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "a dog"},
        called | {"call_id": "c2"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "a cat"}],
        },
    ]


def test_tools_keep_what_a_chat_means_by_leaving_a_field_out() -> None:
    """A function of a chat is not strict, and has no parameters; one of a response would be."""
    tools = [
        {"type": "function", "function": {"name": "f"}},
        {
            "type": "function",
            "function": {"name": "g", "description": "G.", "parameters": SCHEMA, "strict": True},
        },
    ]
    named = {"type": "function", "function": {"name": "g"}}
    body = translated(tools=tools, tool_choice=named, parallel_tool_calls=False)
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "name": "f", "parameters": empty, "strict": False},
        {
            "type": "function",
            "name": "g",
            "description": "G.",
            "parameters": SCHEMA,
            "strict": True,
        },
    ]
    assert body["tool_choice"] == {"type": "function", "name": "g"}
    assert body["parallel_tool_calls"] is False
    assert translated(tools=tools, tool_choice="required")["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"max_tokens": 16}, {"max_output_tokens": 16}),
        ({"max_completion_tokens": 500}, {"max_output_tokens": 500}),
        ({"reasoning_effort": "high"}, {"reasoning": {"effort": "high"}}),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"response_format": {"type": "text"}}, {"text": {"format": {"type": "text"}}}),
        (
            {"response_format": {"type": "json_object"}},
            {"text": {"format": {"type": "json_object"}}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": SCHEMA,
                        "strict": True,
                    }
                }
            },
        ),
        (
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
        ),
    ],
)
def test_each_field_has_its_equal(asked: Json, sent: Json) -> None:
    body = translated(**asked)
    assert {name: body[name] for name in sent} == sent
    assert body.keys() - sent.keys() == translated().keys()


@pytest.mark.parametrize("store", [None, False, True])
def test_only_who_asked_for_it_has_the_answer_stored_for_longer(store: bool | None) -> None:
    made = request(json.dumps(chat(store=store)).encode(), window="8h", name="ours")
    assert made.kept is (store is True)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"stop": "x"},
        {"stop": ["x"]},
        {"seed": 1},
        {"logit_bias": {"50256": -100}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"logprobs": True, "top_logprobs": 3},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "mp3"}},
        {"service_tier": "priority"},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"something_new": 1},
        {"stream": True},
        {"max_tokens": 15},
        {"max_tokens": 100, "max_completion_tokens": 100},
        {"metadata": {str(n): "x" for n in range(16)}},
        {"metadata": {METADATA_KEY: "theirs"}},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        {"messages": []},
        {"messages": [{"role": "user", "content": "Who?", "name": "Ann"}]},
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant", "refusal": "No."}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
                    ],
                }
            ]
        },
        {"temperature": "hot"},
    ],
)
def test_what_has_no_equal_is_not_translated(fields: Json) -> None:
    with pytest.raises(UntranslatableError):
        translated(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "stop": None, "seed": None, "logit_bias": {}, "logprobs": False},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "top_logprobs": None},
        {"modalities": ["text"], "audio": None, "tools": None, "response_format": None},
    ],
)
def test_what_says_nothing_is_left_out(fields: Json) -> None:
    assert translated(**fields) == translated()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":"m"}', b"\xff", b"[" * 100_000])
def test_what_is_no_chat_is_not_translated(body: bytes) -> None:
    with pytest.raises(UntranslatableError):
        request(body, window="8h", name="ours")


@given(texts, texts, texts)
def test_texts_come_through_both_ways(asked: str, called: str, told: str) -> None:
    body = json.loads(
        request(
            json.dumps(
                chat(
                    messages=[
                        {"role": "system", "content": asked},
                        {"role": "user", "content": [{"type": "text", "text": told}]},
                        {"role": "tool", "tool_call_id": called, "content": asked},
                    ]
                )
            ).encode(),
            window="2h",
            name="ours",
        ).body
    )
    system, user, tool = body["input"]
    assert (system["content"], user["content"][0]["text"]) == (asked, told)
    assert (tool["call_id"], tool["output"]) == (called, asked)
    call = {"type": "function_call", "call_id": called, "name": "f", "arguments": told}
    said = completed(output=[message(asked, told), call]).choices[0].message
    assert said.content == asked + told
    assert said.tool_calls is not None
    [made] = said.tool_calls
    assert made.type == "function"
    assert (made.id, made.function.arguments) == (called, told)


def test_a_stock_client_reads_a_response_as_a_chat_completion() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    found = completed(output=[reasoning, message("I am.")], service_tier="default")
    assert (found.id, found.object, found.created) == (
        "chatcmpl-1",
        "chat.completion",
        1_790_000_000,
    )
    [choice] = found.choices
    assert (choice.message.content, choice.message.refusal) == ("I am.", None)
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert found.service_tier == "default"
    used = found.usage
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (1200, 30, 1230)
    assert used.prompt_tokens_details is not None
    assert used.prompt_tokens_details.cached_tokens == 1024
    assert used.completion_tokens_details is not None
    assert used.completion_tokens_details.reasoning_tokens == 20


def test_function_calls_are_tool_calls() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    [choice] = completed(output=[call, call | {"call_id": "c2"}]).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert [made.id for made in choice.message.tool_calls] == ["c1", "c2"]


def test_a_refusal_stays_one() -> None:
    refusal = {"type": "refusal", "refusal": "No."}
    said = completed(output=[message(content=[refusal])]).choices[0].message
    assert (said.content, said.refusal) == (None, "No.")


def test_what_was_cut_off_while_it_reasoned_says_nothing_in_a_text() -> None:
    """As a chat completion does: clients take its content for a string."""
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    [choice] = completed(output=[], **cut).choices
    assert (choice.message.content, choice.finish_reason) == ("", "length")


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_one_that_is_cut_off_says_why(reason: str, finish: str) -> None:
    found = completed(status="incomplete", incomplete_details={"reason": reason})
    assert found.choices[0].finish_reason == finish


def test_what_no_chat_completion_holds_is_no_answer() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": None}
    cut = {"reason": "max_messages"}
    for fields in (
        {"output": [search]},
        {"status": "incomplete", "incomplete_details": cut},
    ):
        with pytest.raises(NotAnAnswerError):
            completion(read({**response(), **fields}))


def told(*, late: bool = False, **fields: Any) -> Answer | PassingError:
    return answer(read(response(**fields)), backend="b", model="ours", late=late)


def test_an_answer_carries_the_clients_model_and_what_it_used() -> None:
    found = told()
    assert isinstance(found, Answer)
    assert (found.status, json.loads(found.body)["model"]) == (200, "ours")
    used = found.usage
    assert (used.prompt_tokens, used.cached_tokens, used.written_tokens) == (1200, 1024, 100)
    assert used.completion_tokens == 30


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded", "vector_store_timeout"])
def test_a_passing_failure_is_tried_again(code: str) -> None:
    found = told(status="failed", output=[], error={"code": code, "message": "Oh."})
    assert isinstance(found, PassingError)
    assert found.reason == f"{code}: Oh."


@pytest.mark.parametrize("code", sorted(LASTING))
def test_a_lasting_failure_is_the_answer(code: str) -> None:
    found = told(status="failed", output=[], error={"code": code, "message": "No."})
    assert isinstance(found, Answer)
    assert found.status == 400
    assert json.loads(found.body)["error"]["code"] == code


@pytest.mark.parametrize(("late", "code"), [(True, "batch_expired"), (False, "batch_cancelled")])
def test_one_that_was_cancelled_is_tried_again_at_once(late: bool, code: str) -> None:
    found = told(late=late, status="cancelled", output=[])
    assert isinstance(found, PassingError)
    assert found.reason.partition(":")[0] == code
