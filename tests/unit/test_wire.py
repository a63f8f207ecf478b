"""What OpenAI documents is accepted as it stands, and what is out of its bounds is not."""

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.states import ENDPOINTS, Endpoint
from carpool.wire import DECODERS, ChatBody, CompletionBody, EmbeddingBody

Json = dict[str, Any]

LEAST: dict[Endpoint, Json] = {
    Endpoint.CHAT: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "x"},
    Endpoint.EMBEDDINGS: {"model": "m", "input": "x"},
}
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


def decode(endpoint: Endpoint, body: Json) -> Any:
    return DECODERS[endpoint].decode(msgspec.json.encode(body))


def test_each_endpoint_has_a_decoder() -> None:
    assert set(DECODERS) == set(ENDPOINTS) == set(Endpoint)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_may_be_left_out_may_be_null(endpoint: Endpoint) -> None:
    body = decode(endpoint, LEAST[endpoint])
    optional = set(body.__struct_fields__) - set(LEAST[endpoint])
    assert decode(endpoint, LEAST[endpoint] | dict.fromkeys(optional)) == body


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("kind", [ChatBody, CompletionBody, EmbeddingBody])
def test_no_field_is_required_but_the_least(endpoint: Endpoint, kind: type[Any]) -> None:
    if isinstance(decode(endpoint, LEAST[endpoint]), kind):
        required = {field.name for field in msgspec.structs.fields(kind) if field.required}
        assert required == set(LEAST[endpoint])
        assert all(
            type(None) in get_args(hint)
            for name, hint in get_type_hints(kind).items()
            if name not in required and get_origin(hint) in (Union, types.UnionType)
        )


@given(st.sampled_from(Endpoint), st.text(max_size=12), json)
def test_a_field_that_is_not_known_is_let_through(
    endpoint: Endpoint, name: str, value: Any
) -> None:
    known = {field.name for kind in DECODERS for field in _fields(kind)}
    if name not in known:
        assert decode(endpoint, LEAST[endpoint] | {name: value}) == decode(
            endpoint, LEAST[endpoint]
        )


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 2, 0.5], [-0.1, 2.1, "1", True]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("n", [1, 128], [0, 129, 1.0, "1"]),
        ("seed", [0, -1, 2**63], ["7", 0.5]),
        ("stop", ["a", ["a", "b", "c", "d"], []], [["a"] * 5, 7, [7]]),
        ("max_tokens", [0, 10**6], [-1, "7"]),
        ("max_completion_tokens", [0, 10**6], [-1]),
        ("logit_bias", [{"50256": -100}, {}], [[], {"1": "2"}]),
        ("logprobs", [True, False], [5]),
        ("top_logprobs", [0, 20], [-1, 21]),
        ("metadata", [{}, {"k" * 64: "v" * 512}], [{"k" * 65: ""}, {"": "v" * 513}, {"k": 1}]),
        ("store", [True], ["yes"]),
        ("stream_options", [{}, {"include_usage": True, "other": 1}], [[], {"include_usage": 1}]),
        ("safety_identifier", ["s" * 128], ["s" * 129]),
        ("service_tier", ["auto", "flex", "of_next_year"], [1]),
        ("user", ["", "ann"], [1]),
        (
            "messages",
            [
                [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
                [{"role": "assistant", "content": None, "tool_calls": []}],
                [{"role": "of_next_year"}],
            ],
            [[], {}, [{}], [[]], [{"role": None}]],
        ),
        ("model", ["m", "org/m:1"], ["", None, 1]),
    ],
)
def test_the_bounds_of_a_chat(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        decode(Endpoint.CHAT, LEAST[Endpoint.CHAT] | {name: value})
    for value in bad:
        with pytest.raises(msgspec.ValidationError):
            decode(Endpoint.CHAT, LEAST[Endpoint.CHAT] | {name: value})


@pytest.mark.parametrize("prompt", ["", "x", ["x", "y"], [1, 2], [[1, 2], [3]], [[1], "x"]])
def test_each_form_of_prompt_is_taken(prompt: Any) -> None:
    decode(Endpoint.COMPLETIONS, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize("prompt", [None, [], 1, {}, [None], [1.5], [["x"]]])
def test_what_is_no_prompt_is_not(prompt: Any) -> None:
    for endpoint, name in ((Endpoint.COMPLETIONS, "prompt"), (Endpoint.EMBEDDINGS, "input")):
        with pytest.raises(msgspec.ValidationError):
            decode(endpoint, {"model": "m", name: prompt})


def _fields(endpoint: Endpoint) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(type(decode(endpoint, LEAST[endpoint])))
