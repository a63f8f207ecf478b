"""A stream is timed by its tokens, and one that is not whole never counts as an answer."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.reading import MOST_CODE_CHARACTERS, Reading, StreamFailed, said
from cli.bench.sample import Sample

DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


WHOLE = b"".join(
    (
        b": queued\n\n",
        chunk(role="assistant", content=""),
        chunk(content="Hé"),
        chunk(content="llo"),
        chunk(finish="stop"),
        event(choices=[], usage=USAGE),
        DONE,
    )
)


def taken(reading: Reading, seconds: float = 9, failure: StreamFailed | None = None) -> Sample:
    return reading.sample(model="m", block=3, began=1, seconds=seconds, failure=failure)


def failed(*parts: bytes) -> StreamFailed:
    with pytest.raises(StreamFailed) as caught:
        read(parts)
    return caught.value


def read(parts: Iterable[bytes]) -> Sample:
    reading = Reading()
    for part in parts:
        reading.feed(part, 1)
    reading.close(2)
    return taken(reading)


def test_tokens_are_timed_and_a_role_is_none() -> None:
    reading = Reading()
    for seconds, part in enumerate(WHOLE.split(b"\n\n")[:-1]):
        reading.feed(part + b"\n\n", seconds)
    reading.close(9)
    assert taken(reading) == Sample(
        model="m",
        block=3,
        began=1,
        seconds=6,
        first_token_seconds=2,
        last_token_seconds=3,
        input_tokens=11,
        cached_tokens=5,
        output_tokens=7,
        hidden_tokens=4,
    )


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    found = read(WHOLE[begin:end] for begin, end in pairwise(places))
    assert (found.input_tokens, found.output_tokens, found.error) == (11, 7, None)


@given(st.integers(0, len(WHOLE) - len(b"[DONE]\n\n")))
def test_a_stream_that_ends_early_is_a_failure(end: int) -> None:
    """LESSONS 16. What is left of a frame is judged too."""
    assert failed(WHOLE[:end]).code in {"cut off", "not a chunk"}


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0}]},
        {"refusal": "no"},
    ],
)
def test_all_that_a_model_says_is_a_token(delta: dict[str, Any]) -> None:
    reading = Reading()
    reading.feed(chunk(**delta), 4)
    assert taken(reading).first_token_seconds == 4


def test_thoughts_that_are_sent_are_not_hidden() -> None:
    reading = Reading()
    reading.feed(chunk(reasoning_content="hm") + event(choices=[], usage=USAGE), 4)
    assert taken(reading).hidden_tokens == 0


def test_made_up_text_says_so() -> None:
    reading = Reading()
    reading.feed(event(choices=[], system_fingerprint="fp_simulated"), 4)
    assert taken(reading).simulated


@pytest.mark.parametrize(
    ("received", "code", "message"),
    [
        (
            event(error={"message": "Too  much\x1b[31m", "code": "overloaded"}),
            "in the stream overloaded",
            "Too much\\x1b[31m",
        ),
        (event(error={"message": "Gone", "code": 503}), "in the stream 503", "Gone"),
        (event(error="oh"), "in the stream", "oh"),
        (b"event: error\ndata: {}\n\n", "in the stream", "It gives no reason."),
        (b"data: <html>\n\n", "not a chunk", "A chunk makes no sense: "),
        (b'data: {"choices":' + b"[" * 5000 + b"\n\n", "not a chunk", "A chunk makes no sense: "),
        (b'data: {"choices":[{"delta":"x"}]}\n\n', "not a chunk", "A chunk makes no sense: "),
        (b'{"choices":[]}', "cut off", "The stream ended before its end."),
        (b"<html>busy</html>", "cut off", "The stream ended before its end."),
        (DONE, "cut off", "The stream ended before its end."),
    ],
)
def test_what_is_no_answer_has_a_code_and_a_reason(
    received: bytes, code: str, message: str
) -> None:
    found = failed(chunk(content="x"), received)
    assert found.code == code
    assert found.message.startswith(message)


def test_a_failure_keeps_when_it_came() -> None:
    reading = Reading()
    reading.feed(chunk(content="x"), 4)
    found = taken(reading, seconds=5, failure=StreamFailed("cut off", "Why."))
    assert (found.seconds, found.error, found.message) == (5, "cut off", "Why.")


def test_a_long_code_is_cut() -> None:
    assert len(said("400", {"code": "x" * 1000}).code) == MOST_CODE_CHARACTERS
    assert said("400", {"code": "a\nb", "message": None}).code == "400 a b"
    assert said("502", None).message == "It gives no reason."
