"""Each line of a provider's files says one thing of one request, or is told to say nothing."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carpool.errors import PassingError
from carpool.ids import new_id
from workers.backends.protocol import Answer, Usage
from workers.provider_batches.reading import (
    UNANSWERED,
    Told,
    UnreadableError,
    missing,
    read_line,
    unanswered,
)

ID = new_id()
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I."}}],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}
ERROR = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": "x"}}


def told(response: Any = None, error: Any = None, custom_id: str = f"{ID.hex}.4") -> Any:
    """What is read of a line with this response and error."""
    line = {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": error}
    found = read_line(json.dumps(line).encode(), backend="patient", model="ours")
    assert (found.id, found.epoch) == (ID, 4)
    return found.answer


def answered(status: int, body: Any) -> Any:
    return told({"status_code": status, "request_id": "req_1", "body": body})


def test_a_success_is_an_answer_under_the_clients_name_of_the_model() -> None:
    answer = answered(200, COMPLETION)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body) == COMPLETION | {"model": "ours"}
    assert answer.usage == Usage(prompt_tokens=5, cached_tokens=3, completion_tokens=2)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_lasting_error_is_the_clients(status: int) -> None:
    answer = answered(status, ERROR)
    assert isinstance(answer, Answer)
    assert (answer.status, json.loads(answer.body)) == (status, ERROR)


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503, 302])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert isinstance(answered(status, ERROR), PassingError)


@pytest.mark.parametrize("body", [ERROR, "<html>", None, [], {"choices": None, "error": {}}, {}])
def test_what_is_no_answer_under_status_200_is_tried_again_and_may_be_paid(body: Any) -> None:
    failure = answered(200, body)
    assert isinstance(failure, PassingError)
    assert failure.paid


LIMITED = {"error": {"message": "Slowly.", "type": "requests", "param": None, "code": "limit"}}
SPENT = {"error": LIMITED["error"] | {"code": "insufficient_quota"}}


@pytest.mark.parametrize(
    ("failure", "heals"),
    [
        (answered(503, ERROR), True),
        (answered(429, LIMITED), True),
        (answered(429, SPENT), False),
        (answered(200, {}), False),
        (missing("completed"), False),
        (missing("cancelled"), True),
        (unanswered("server_error", None), True),
        (unanswered("batch_expired", None), False),
    ],
    ids=["5xx", "429", "spent", "paid", "missing", "taken back", "failed", "expired"],
)
def test_what_costs_nothing_and_time_may_heal_is_told_from_the_rest(
    failure: PassingError, heals: bool
) -> None:
    """Not where the whole provider batch has met it: that is sent in vain for ever."""
    assert Told(ID, 1, failure).heals is heals
    assert not Told(ID, 1, failure, whole=True).heals


@pytest.mark.parametrize("code", sorted(UNANSWERED))
def test_what_the_provider_did_not_come_to_says_so(code: str) -> None:
    failure = told(error={"code": code, "message": "Too late."})
    assert isinstance(failure, PassingError)
    assert failure.reason == f"{code}: Too late."
    assert json.loads(failure.body)["error"]["code"] == code


@pytest.mark.parametrize("error", [None, {}, {"code": None, "message": None}])
def test_no_response_and_no_reason_is_a_failure_all_the_same(error: Any) -> None:
    assert isinstance(told(error=error), PassingError)


@pytest.mark.parametrize(
    "custom_id",
    ["", "r1", f"{ID.hex}", f"{ID.hex}.", f"{ID.hex}.x", "a.1"],
    ids=range(6),  # of all processes that collect it the same
)
def test_a_custom_id_that_is_none_of_ours_is_unreadable(custom_id: str) -> None:
    with pytest.raises(UnreadableError):
        told(custom_id=custom_id)


@given(st.integers(min_value=0, max_value=200))
def test_a_line_that_is_cut_short_is_unreadable(length: int) -> None:
    line = {
        "custom_id": f"{ID.hex}.4",
        "response": {"status_code": 200, "body": COMPLETION},
    }
    whole = json.dumps(line).encode()
    with pytest.raises(UnreadableError):
        read_line(whole[: min(length, len(whole) - 1)], backend="patient", model="ours")


@given(st.binary(max_size=60))
@example(b'{"response":{"status_code":200,"body":' + b"[" * 100_000)
def test_rubbish_is_unreadable(text: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_line(text, backend="patient", model="ours")


def test_what_was_cancelled_before_it_had_files_was_not_come_to() -> None:
    """As where its lines say so: taken back, perhaps, with one attempt left for a live call."""
    assert missing("cancelled").reason.partition(":")[0] in UNANSWERED


def test_a_missing_line_is_a_failure_that_says_so() -> None:
    assert missing("completed").reason == (
        "The provider's batch is completed, and its files hold no line of this request."
    )
