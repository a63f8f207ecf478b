"""The chunks of a stream, folded, are the answer that was cut into them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion

from carpool.folding import fold

Json = dict[str, Any]

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
HEAD: Json = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "m",
    "system_fingerprint": "fp",
    "service_tier": "default",
}
REASONS = ["stop", "length", "tool_calls", "content_filter"]

texts = st.text(max_size=20)
tokens = st.lists(
    st.fixed_dictionaries(
        {
            "token": st.text(max_size=3),
            "logprob": st.floats(-9, 0),
            "bytes": st.none(),
            "top_logprobs": st.just([]),
        }
    ),
    min_size=1,
    max_size=5,
)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.uuids().map(str),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.text(max_size=8), "arguments": texts}),
        }
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def cut(draw: st.DrawFn, whole: Any) -> list[Any]:
    """A string or list in parts that make it up."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def chat_choices(draw: st.DrawFn, index: int) -> tuple[Json, list[Json]]:
    """A choice, and the chunks' choices that it was cut into."""
    content = draw(st.none() | texts)
    message: Json = {"content": content, "role": "assistant"}
    deltas: list[Json] = [{"role": "assistant"}]
    if content is not None:
        deltas += [{"content": part} for part in draw(cut(content))]
    if draw(st.booleans()):
        message["refusal"] = draw(texts)
        deltas += [{"refusal": part} for part in draw(cut(message["refusal"]))]
    if draw(st.booleans()):
        message["tool_calls"] = draw(calls)
        for place, call in enumerate(message["tool_calls"]):
            first = {**call, "function": {**call["function"], "arguments": ""}, "index": place}
            deltas.append({"tool_calls": [first]})
            for part in draw(cut(call["function"]["arguments"])):
                deltas.append({"tool_calls": [{"index": place, "function": {"arguments": part}}]})
    reason = draw(st.sampled_from(REASONS))
    parts: list[Json] = [
        {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
        for delta in deltas
    ]
    logprobs: Json | None = None
    if draw(st.booleans()):
        logprobs = {"content": draw(tokens), "refusal": None}
        for part in draw(cut(logprobs["content"])):
            parts.append(
                {
                    "index": index,
                    "delta": {},
                    "finish_reason": None,
                    "logprobs": {"content": part, "refusal": None},
                }
            )
    parts.append({"index": index, "delta": {}, "finish_reason": reason, "logprobs": None})
    choice = {"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs}
    return choice, parts


@st.composite
def interleaved(draw: st.DrawFn, streams: list[list[Json]]) -> list[Json]:
    """The items of all streams, each stream in its order."""
    remaining = [list(stream) for stream in streams]
    merged = []
    while any(remaining):
        stream = draw(st.sampled_from([stream for stream in remaining if stream]))
        merged.append(stream.pop(0))
    return merged


@st.composite
def chats(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    choices = [draw(chat_choices(index)) for index in range(draw(st.integers(1, 3)))]
    usage = draw(st.none() | st.just(USAGE))
    head = HEAD | {"object": "chat.completion.chunk"}
    chunks = [
        {**head, "choices": [part], "usage": None}
        for part in draw(interleaved([parts for _, parts in choices]))
    ]
    answer = HEAD | {"object": "chat.completion", "choices": [choice for choice, _ in choices]}
    if usage is not None:
        chunks.append({**head, "choices": [], "usage": usage})
        answer["usage"] = usage
    return answer, chunks


@given(chats())
def test_a_chat_is_what_it_was_cut_from(case: tuple[Json, list[Json]]) -> None:
    answer, chunks = case
    folded = fold(chunks)
    assert folded == answer
    ChatCompletion.model_validate(folded, strict=True)


@st.composite
def completions(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    head = HEAD | {"object": "text_completion"}
    choices, streams = [], []
    for index in range(draw(st.integers(1, 3))):
        text, reason = draw(texts), draw(st.sampled_from(["stop", "length"]))
        logprobs = draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "tokens": st.lists(texts, min_size=1),
                    "token_logprobs": st.lists(st.floats(-9, 0)),
                }
            )
        )
        parts: list[Json] = [
            {"index": index, "text": part, "finish_reason": None, "logprobs": None}
            for part in draw(cut(text))
        ]
        if logprobs is not None:
            parts[0]["logprobs"] = logprobs
        parts.append({"index": index, "text": "", "finish_reason": reason, "logprobs": None})
        streams.append(parts)
        choices.append(
            {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}
        )
    chunks = [{**head, "choices": [part]} for part in draw(interleaved(streams))]
    return head | {"choices": choices}, chunks


@given(completions())
def test_a_completion_is_what_it_was_cut_from(case: tuple[Json, list[Json]]) -> None:
    answer, chunks = case
    folded = fold(chunks)
    assert folded == answer
    Completion.model_validate(folded, strict=True)


def test_what_one_chunk_says_stays_as_it_was() -> None:
    """The chunks are not changed by being folded."""
    chunk: Json = {
        "object": "chat.completion.chunk",
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "a"}}]}}
        ],
    }
    fold([chunk, chunk])
    assert chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == "a"


def test_no_chunk_at_all_is_an_answer_without_choices() -> None:
    assert fold([])["choices"] == []
