"""A chat becomes a response with nothing lost; what would lose anything stays as it is."""

import base64
import json

import pytest

from tests.unit.responses_api import Json, chat, translated
from workers.provider_batches.responses_body import METADATA_KEY, UntranslatableError, request

IMAGE = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
SCHEMA: Json = {"type": "object", "properties": {"a": {"maximum": 10**30, "const": 1.10}}}


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
