"""A provider's failures mean what they are, and only what must change in a body does."""

import asyncio
from typing import Any

import msgspec
import pytest

from carpool.errors import ConfigurationError, PassingError
from carpool.settings import OpenAISettings
from carpool.states import Endpoint
from tests.conformance import harness
from tests.conformance.harness import MODEL, Harness, Json
from tests.conformance.patience import until
from tests.conformance.provider import CACHED_TOKENS, KEY, Provider
from workers.backends.registry import make

pytestmark = pytest.mark.asyncio(loop_scope="session")

CACHE_KEY_CHARACTERS = 64
"""As many as OpenAI takes."""
MESSAGES = [{"role": "user", "content": "Who leaves the yard at seven?"}]
Started = tuple[Harness, Provider]


def _chat(**changes: Any) -> Json:
    return {"messages": MESSAGES, **changes}


async def test_unknown_fields_pass_both_ways_and_the_model_is_renamed(openai: Started) -> None:
    backend, provider = openai
    found = await backend.decoded(_chat(future_field={"deep": [1, None]}, seed=2**60))
    sent = provider.requests[-1]
    assert sent["model"] == "good"
    assert (sent["future_field"], sent["seed"]) == ({"deep": [1, None]}, 2**60)
    assert (found["model"], found["x_extra"]) == (MODEL, 7)
    await backend.answer(_chat(stream=True))
    assert {(chunk["model"], chunk["x_extra"]) for chunk in backend.chunks()} == {(MODEL, 7)}


async def test_a_stream_asks_for_its_usage_and_a_whole_answer_does_not(openai: Started) -> None:
    backend, provider = openai
    options = {"include_obfuscation": False}
    answer = await backend.answer(_chat(stream=True, stream_options=options))
    assert provider.requests[-1]["stream_options"] == {**options, "include_usage": True}
    assert answer.usage.cached_tokens == CACHED_TOKENS
    await backend.answer(_chat(stream=True, stream_options=options), stream=False)
    assert not {"stream", "stream_options"} & provider.requests[-1].keys()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("manner", "status", "message"),
    [
        ("invalid", 400, "Invalid value"),
        ("unknown", 404, "The model does not exist"),
        ("ollama", 404, "model 'ollama' not found"),
        ("unprocessable", 422, '[{"loc":["body","n"],"msg":"not a number","type":"int"}]'),
    ],
)
async def test_lasting_errors_pass_through_in_openais_shape(
    openai: Started, manner: str, status: int, message: str, stream: bool
) -> None:
    backend, _ = openai
    answer = await backend.answer(_chat(stream=stream), upstream=manner)
    assert answer.status == status
    error = msgspec.json.decode(answer.body)["error"]
    assert (error["message"], error["type"]) == (message, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("manner", "status", "reason"),
    [
        ("limited", 429, "answered 429"),
        ("broken", 500, "answered 500"),
        ("html", 502, "answered 502"),
        ("html_ok", 502, "failed"),
        ("truncated", 502, "failed"),
        ("error_ok", 502, "failed"),
        ("aborted", 502, "aborted the request"),
    ],
)
async def test_passing_errors(
    openai: Started, manner: str, status: int, reason: str, stream: bool
) -> None:
    backend, _ = openai
    with pytest.raises(PassingError, match=reason) as caught:
        await backend.answer(_chat(stream=stream), upstream=manner)
    assert caught.value.status == status
    assert set(msgspec.json.decode(caught.value.body)["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    assert caught.value.retry_after_seconds == (7 if manner == "limited" else None)


@pytest.mark.parametrize("manner", ["reset", "endless", "error_inside"])
async def test_a_stream_that_breaks_is_a_failure_after_what_it_said(
    openai: Started, manner: str
) -> None:
    backend, _ = openai
    with pytest.raises(PassingError):
        await backend.answer(_chat(stream=True), upstream=manner)
    assert len(backend.emitted) == 4


async def test_an_error_frame_before_the_first_chunk_is_its_status(openai: Started) -> None:
    backend, _ = openai
    answer = await backend.answer(_chat(stream=True), upstream="error_first")
    assert (answer.status, backend.emitted) == (400, [])
    assert msgspec.json.decode(answer.body)["error"]["code"] is None


async def test_a_wrong_key_is_the_operators_fault_and_stays_secret(openai: Started) -> None:
    backend, provider = openai
    provider.key = "another"
    try:
        with pytest.raises(PassingError, match=r"401.*key") as caught:
            await backend.answer(_chat())
        with pytest.raises(PassingError):
            await backend.backend.health()
    finally:
        provider.key = KEY
    assert caught.value.status == 502
    assert KEY not in caught.value.reason
    assert KEY.encode() not in caught.value.body


async def test_nothing_listens() -> None:
    async with harness.openai() as (backend, provider):
        await provider.__aexit__()
        with pytest.raises(PassingError, match="connection failed"):
            await backend.answer(_chat())
        with pytest.raises(PassingError, match="cannot be reached"):
            await backend.backend.health()


@pytest.mark.parametrize("stream", [False, True])
async def test_too_slow_is_a_504(stream: bool) -> None:
    async with harness.openai(timeout_seconds=0.2) as (backend, _):
        with pytest.raises(PassingError, match="in time") as caught:
            await backend.answer(_chat(stream=stream), upstream="slow")
        assert caught.value.status == 504


async def test_a_cancelled_stream_closes_its_connection(openai: Started) -> None:
    backend, provider = openai
    first = asyncio.Event()
    call = backend.call(_chat(stream=True), upstream="slow")
    task = asyncio.create_task(backend.backend.answer(call, lambda _: first.set()))
    await first.wait()
    assert provider.open == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: provider.open == 0)


async def test_connections_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.backends.openai.DRAIN_SECONDS", 10)
    async with harness.openai() as (backend, provider):
        for stream in (False, True, True, False):
            await backend.answer(_chat(stream=stream))
        assert len(provider.clients) == 1


async def test_no_more_connections_than_the_settings_say() -> None:
    async with harness.openai(concurrency=3) as (backend, provider):
        calls = [backend.call(_chat()) for _ in range(12)]
        await asyncio.gather(*(backend.backend.answer(call, print) for call in calls))
        assert backend.backend.capacity == 3
        assert len(provider.clients) <= 3


async def test_models_are_the_providers_unless_they_are_set(openai: Started) -> None:
    assert await openai[0].backend.models() == ["good"]
    async with harness.openai(models=("one", "two")) as (backend, _):
        assert await backend.backend.models() == ["one", "two"]


async def test_embeddings_in_base64_pass_through(openai: Started) -> None:
    backend, provider = openai
    await backend.decoded(
        {"input": ["a"], "encoding_format": "base64"}, endpoint=Endpoint.EMBEDDINGS
    )
    assert provider.requests[-1]["encoding_format"] == "base64"


async def test_a_body_that_is_no_object_is_a_400(openai: Started) -> None:
    assert (await openai[0].answer({}, raw=b"[1]")).status == 400


async def test_what_shares_a_prefix_is_sent_with_one_cache_key() -> None:
    """Of a team: the key is that of the leading bits, and says nothing of the others."""
    async with harness.openai(prompt_cache_key=True) as (backend, provider):
        for prefix, team in (
            (0x1234 << 48, 1),
            ((0x1234 << 48) + 7, 1),
            (-1, 1),
            (0x1234 << 48, 2),
        ):
            for stream in (False, True):
                await backend.answer(_chat(stream=stream), prefix_key=prefix, team_id=team)
        keys = [sent["prompt_cache_key"] for sent in provider.requests]
        assert keys[::2] == keys[1::2]
        same, shared, other, foreign = keys[::2]
        assert same == shared
        assert len({same, other, foreign}) == 3
        assert max(len(key) for key in keys) <= CACHE_KEY_CHARACTERS


@pytest.mark.parametrize(
    ("given", "kept"), [("mine", True), ("", True), (["odd"], True), (None, False)]
)
async def test_a_clients_own_cache_key_is_kept(given: Any, kept: bool) -> None:
    async with harness.openai(prompt_cache_key=True) as (backend, provider):
        await backend.answer(_chat(prompt_cache_key=given, future_field=1))
        sent = provider.requests[-1]
        assert (sent["prompt_cache_key"] == given) is kept
        assert sent["future_field"] == 1


async def test_no_cache_key_where_it_is_not_wanted_or_not_known() -> None:
    """Only chats have one; a provider that is not OpenAI may refuse what it does not know."""
    async with harness.openai() as (backend, provider):
        await backend.answer(_chat())
        assert "prompt_cache_key" not in provider.requests[-1]
    async with harness.openai(prompt_cache_key=True) as (backend, provider):
        await backend.answer({"prompt": "The driver"}, endpoint=Endpoint.COMPLETIONS)
        await backend.answer({"input": ["a"]}, endpoint=Endpoint.EMBEDDINGS)
        assert all("prompt_cache_key" not in sent for sent in provider.requests)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, True),
        ({"prompt_cache_key": False}, False),
        ({"base_url": "http://localhost/v1"}, False),
        ({"base_url": "http://localhost/v1", "prompt_cache_key": True}, True),
    ],
)
async def test_openai_itself_gets_cache_keys_unless_told_otherwise(
    settings: Json, wanted: bool
) -> None:
    given = OpenAISettings.model_validate({"kind": "openai", **settings})
    assert given.groups_prompts is wanted


async def test_without_a_key_for_openai_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    settings = OpenAISettings.model_validate({"kind": "openai", "api_key_env": "NO_SUCH_KEY"})
    with pytest.raises(ConfigurationError, match=r"backends\.cloud\.api_key_env: NO_SUCH_KEY"):
        await make("cloud", settings, harness.AWAY).start()
