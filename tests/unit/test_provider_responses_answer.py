"""A response becomes a chat completion with nothing lost, or says why it is no answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.errors import PassingError
from tests.unit.responses_api import chat, completed, message, read, response
from workers.backends.openai_body import NotAnAnswerError
from workers.backends.protocol import Answer
from workers.provider_batches.responses_answer import LASTING, answer, completion
from workers.provider_batches.responses_body import request

texts = st.text(st.characters(exclude_categories=["Cs"]))


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


def test_a_response_that_is_no_answer_may_be_paid_and_a_failed_one_is_not() -> None:
    whole = read(response() | {"output": [{"type": "web_search_call"}]})
    unknown = answer(whole, backend="b", model="ours", late=False)
    failed = told(status="failed", error={"code": "server_error", "message": "Oh."}, output=[])
    assert isinstance(unknown, PassingError)
    assert isinstance(failed, PassingError)
    assert (unknown.paid, failed.paid) == (True, False)


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
