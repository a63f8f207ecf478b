"""A body becomes an intake or a refusal that names its place, and never anything else."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.intake import MAX_NAME_LENGTH, Intake, fingerprint, read
from carpool.errors import InvalidRequest
from carpool.prefix import prefix_key
from carpool.states import Endpoint, ServiceClass
from carpool.wire import holds_nul

Json = dict[str, Any]

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
FIELDS = [
    *("model", "messages", "prompt", "input", "n", "stream", "stream_options", "user", "stop"),
    *("temperature", "metadata", "logit_bias", "service_tier", "max_tokens", "dimensions"),
]
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "role", "content"]), inner, max_size=3)
    ),
    max_leaves=8,
)
endpoints = st.sampled_from(Endpoint)


def encoded(body: Any) -> bytes:
    return msgspec.json.encode(body)


def taken(body: Json, endpoint: Endpoint = Endpoint.CHAT) -> Intake:
    return read(endpoint, encoded(body), team_id=1)


def refused(body: Json, endpoint: Endpoint = Endpoint.CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        taken(body, endpoint)
    return caught.value


@given(endpoints, st.binary(max_size=200))
def test_bytes_are_taken_or_refused(endpoint: Endpoint, raw: bytes) -> None:
    _taken_or_refused(endpoint, raw)


@given(endpoints, st.dictionaries(st.sampled_from(FIELDS), json, max_size=6))
def test_json_is_taken_or_refused(endpoint: Endpoint, body: Json) -> None:
    _taken_or_refused(endpoint, encoded(body))


@given(st.sampled_from(sorted(CHAT)), json)
def test_a_chat_with_one_field_changed_is_taken_or_refused(name: str, value: Any) -> None:
    _taken_or_refused(Endpoint.CHAT, encoded(CHAT | {name: value}))


@given(st.sampled_from(FIELDS), json)
def test_a_refusal_names_the_field(name: str, value: Any) -> None:
    error = _refusal(Endpoint.CHAT, encoded(CHAT | {name: value}))
    if error is not None:
        assert error.param is not None
        assert error.param.replace("[", ".").split(".")[0] == name
        assert name in error.message


def test_what_is_read() -> None:
    body = CHAT | {
        "user": "ann",
        "stream": True,
        "stream_options": {"include_usage": True},
        "service_tier": "flex",
    }
    intake = taken(body)
    assert (intake.model, intake.person, intake.stream, intake.include_usage) == (
        *("m", "ann"),
        *(True, True),
    )
    assert intake.service_class is ServiceClass.FLEX
    assert intake.raw == encoded(body)
    assert intake.endpoint is Endpoint.CHAT


@pytest.mark.parametrize("tier", [None, "auto", "default", "priority", "fast", "Flex", "batch"])
def test_all_but_flex_is_interactive(tier: str | None) -> None:
    assert taken(CHAT | {"service_tier": tier}).service_class is ServiceClass.INTERACTIVE


def test_a_stream_without_options_tells_no_usage() -> None:
    assert not taken(CHAT | {"stream": True}).include_usage
    assert not taken(CHAT | {"stream": True, "stream_options": {}}).include_usage


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "user"}, {}]}, "messages[1].role", "missing_required_parameter"),
        ({"messages": [{"role": 1}]}, "messages[0].role", "invalid_type"),
        ({"model": ""}, "model", "empty_array"),
        ({"model": "m" * (MAX_NAME_LENGTH + 1)}, "model", None),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
        ({"metadata": {"a" * 65: "b"}}, "metadata", "invalid_value"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ],
)
def test_a_refusal_says_what_and_where(changes: Json, param: str, code: str | None) -> None:
    error = refused(CHAT | changes)
    assert (error.param, error.code) == (param, code)
    assert "`$" not in error.message
    assert "  " not in error.message


def test_what_is_missing_is_named_as_openai_names_it() -> None:
    error = refused({"model": "m"})
    assert error.message == "Missing required parameter: 'messages'."
    assert (error.param, error.code) == ("messages", "missing_required_parameter")


def test_embeddings_are_not_streamed() -> None:
    assert refused({"model": "m", "input": "x", "stream": True}, Endpoint.EMBEDDINGS).param == (
        "stream"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b'{"model":"\\ud800"}',
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
        b'{"a":' * 100_000,
        b'{"model":"m","x":' + b"[" * 100_000,
    ],
    ids=range(8),
)
def test_what_cannot_be_parsed_is_no_json(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(Endpoint.CHAT, raw, team_id=1)
    assert caught.value.code == "invalid_json"
    assert len(caught.value.message) < 300


def test_a_fingerprint_is_of_team_path_and_body() -> None:
    raw = encoded(CHAT)
    prints = {
        fingerprint(1, Endpoint.CHAT, raw),
        fingerprint(2, Endpoint.CHAT, raw),
        fingerprint(1, Endpoint.COMPLETIONS, raw),
        fingerprint(1, Endpoint.CHAT, raw + b" "),
    }
    assert len(prints) == 4
    assert all(isinstance(found, UUID) for found in prints)
    assert fingerprint(1, Endpoint.CHAT, raw) == taken(CHAT).fingerprint


@given(st.text(alphabet='\0\\u0"a', max_size=20))
def test_nul_is_found_where_a_text_holds_it_and_nowhere_else(text: str) -> None:
    assert holds_nul(msgspec.json.encode({text: 1})) == ("\0" in text)


whole_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


@given(whole_texts, st.integers(0, 2))
def test_the_prefix_is_the_prompts_whatever_stands_before_it(text: str, temperature: int) -> None:
    messages = [{"role": "user", "content": text}]
    one = taken({"model": "m", "messages": messages})
    other = taken({"temperature": temperature, "model": "m", "messages": messages})
    assert one.prefix_key == other.prefix_key
    assert one.prefix_key == prefix_key(encoded({"messages": messages})[1:])


def _taken_or_refused(endpoint: Endpoint, raw: bytes) -> None:
    error = _refusal(endpoint, raw)
    if error is not None:
        assert error.status == 400
        assert msgspec.json.decode(error.body())["error"]["message"]


def _refusal(endpoint: Endpoint, raw: bytes) -> InvalidRequest | None:
    """Why a body is refused; None for one that is taken as it is."""
    try:
        intake = read(endpoint, raw, team_id=1)
    except InvalidRequest as error:
        return error
    assert intake.raw == raw
    assert intake.model
    return None
