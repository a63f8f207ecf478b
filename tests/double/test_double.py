"""The double answers live calls as OpenAI documents them, and tells what it was asked."""

import asyncio
import signal
import subprocess
import sys
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.double.asking import CHAT, MODEL, ask, body, create, stream
from tests.double.launch import ROOT, Double
from tests.ports import reserved

LONG = "word " * 1100
"""1,375 tokens: ten whole blocks of 128, and a rest."""


async def streamed(client: AsyncOpenAI, text: str, **changes: Any) -> list[Any]:
    return [chunk async for chunk in await stream(client, text, **changes)]


async def headers_of(client: AsyncOpenAI, text: str, **changes: Any) -> httpx.Headers:
    raw = await client.chat.completions.with_raw_response.create(**body(text, **changes))
    return httpx.Headers(dict(raw.headers))


async def test_each_prompt_has_its_own_text(double: Double, client: AsyncOpenAI) -> None:
    """The text follows from the last user message and the double's name, and from nothing else."""
    first, second = await ask(client, "one"), await ask(client, "two")
    assert first.choices[0].message.content == double.text(body("one"))
    assert second.choices[0].message.content == double.text(body("two"))
    assert double.text(body("one")) != double.text(body("two"))
    assert double.text(body("one")) == double.text(body("one", temperature=1, user="me"))
    assert double.text(body("one")).startswith("first:")


async def test_two_doubles_answer_differently(double: Double, client: AsyncOpenAI) -> None:
    """The name of a double stands in what it answers, so that a test sees which one it was."""
    async with (
        Double(name="second") as other,
        AsyncOpenAI(base_url=other.url, api_key="sk-any", max_retries=0) as at_other,
    ):
        said = (await ask(at_other, "one")).choices[0].message.content
        assert said == other.text(body("one"))
        assert said != (await ask(client, "one")).choices[0].message.content


async def test_a_stream_is_the_whole_answer_in_pieces(double: Double, client: AsyncOpenAI) -> None:
    """Role first, finish reason last, then the usage that was asked for, which others have not."""
    chunks = await streamed(client, "one", stream_options={"include_usage": True}, n=2)
    whole = await ask(client, "one", n=2)
    for choice in whole.choices:
        pieces = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert pieces[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in pieces) == choice.message.content
        assert [piece.finish_reason for piece in pieces][-2:] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert all(chunk.choices for chunk in await streamed(client, "one"))


async def test_a_stream_ends_with_done(double: Double) -> None:
    """`data: [DONE]` is the last event, sent chunked."""
    async with httpx.AsyncClient(headers={"authorization": "Bearer k"}) as http:
        answer = await http.post(f"{double.url}/chat/completions", json=body("one", stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


async def test_max_tokens_end_an_answer(double: Double, client: AsyncOpenAI) -> None:
    """The text is cut, but still names its prompt; the reason is length, and the usage is less."""
    answer = await ask(client, "one", max_completion_tokens=1)
    assert answer.choices[0].message.content == double.text(body("one")).split()[0]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 1


async def test_completions_answer_each_prompt(double: Double, client: AsyncOpenAI) -> None:
    """A list of prompts has a choice for each, whole and streamed."""
    whole = await client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3)
    assert [choice.text.split()[0] for choice in whole.choices] == [
        double.text({"prompt": prompt}).split()[0] for prompt in ("a", "b")
    ]
    pieces = ["", ""]
    async for chunk in await client.completions.create(
        model=MODEL, prompt=["a", "b"], max_tokens=3, stream=True
    ):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == [choice.text for choice in whole.choices]


async def test_embeddings_are_of_their_input(double: Double, client: AsyncOpenAI) -> None:
    """The base64 that the stock client asks for and plain numbers are the same vectors."""
    asked: dict[str, Any] = {"model": MODEL, "input": ["a", "b"], "dimensions": 4}
    packed = await client.embeddings.create(**asked)
    plain = await client.embeddings.create(**asked, encoding_format="float")
    assert [one.embedding for one in packed.data] == [one.embedding for one in plain.data]
    assert packed.data[0].embedding == double.vector(asked)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert len(packed.data[0].embedding) == 4


async def test_a_known_prefix_is_cached_from_1024_tokens_up(
    double: Double, client: AsyncOpenAI
) -> None:
    """Whole blocks of 128, for the same model and `prompt_cache_key` alone."""

    async def cached(text: str, **changes: Any) -> int | None:
        usage = (await ask(client, text, **changes)).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens

    assert await cached(LONG, prompt_cache_key="k") == 0
    assert await cached(LONG + "other end", prompt_cache_key="k") == 1280
    assert await cached(LONG, prompt_cache_key="other") == 0
    assert await cached(LONG, prompt_cache_key="k", model="gpt-6-astra") == 0
    assert await cached("word " * 520 + "goes on otherwise " * 200, prompt_cache_key="k") == 0
    assert await cached("begins otherwise " + LONG, prompt_cache_key="k") == 0
    assert [await cached("word " * 700, prompt_cache_key="k") for _ in range(2)] == [0, 0]


async def test_models_are_those_that_are_set(double: Double, client: AsyncOpenAI) -> None:
    """Any is known at first; once set, others are 404, and ids may hold a slash."""
    await ask(client, "one", model="anything")
    await double.configure(models=["org/m:1"])
    assert [model.id async for model in client.models.list()] == ["org/m:1"]
    assert (await client.models.retrieve("org/m:1")).id == "org/m:1"
    with pytest.raises(openai.NotFoundError) as refused:
        await ask(client, "one", model="anything")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": "hello"}, "invalid_value", "messages"),
        ({"n": "two"}, "invalid_value", "n"),
    ],
)
async def test_a_bad_body_is_refused(
    client: AsyncOpenAI, changes: dict[str, Any], code: str, param: str
) -> None:
    """A 400 with OpenAI's error, that names the parameter."""
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, "one", **changes)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_revoked_key_is_401(double: Double, client: AsyncOpenAI) -> None:
    """Any key opens at first; once keys are set, only those do, on every path."""
    await ask(client, "one")
    await double.configure(keys=["sk-other"])
    for call in (ask(client, "one"), client.batches.retrieve("b"), client.files.retrieve("f")):
        with pytest.raises(openai.AuthenticationError) as refused:
            await call
        assert refused.value.code == "invalid_api_key"
    await ask(client.with_options(api_key="sk-other"), "one")


async def test_without_a_key_nothing_is_answered(double: Double) -> None:
    """The default, any key, is still a key."""
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{double.url}/models")).status_code == 401


async def test_an_unlimited_answer_has_its_headers_too(client: AsyncOpenAI) -> None:
    """x-ratelimit-* on every live answer, x-request-id on all."""
    headers = await headers_of(client, "one", stream=True)
    assert headers["x-ratelimit-reset-requests"] == "1ms"
    for part in ("limit", "remaining", "reset"):
        assert f"x-ratelimit-{part}-requests" in headers
        assert f"x-ratelimit-{part}-tokens" in headers
    assert headers["x-request-id"].startswith("req_")


async def test_an_empty_bucket_of_requests_fills_with_the_clock(
    double: Double, client: AsyncOpenAI
) -> None:
    """429 with the seconds to wait, which are those that it takes; other models have their own."""
    await double.configure(requests_per_minute=2)
    headers = await headers_of(client, "one")
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == "30s"
    await ask(client, "two")
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(client, "three")
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "requests")
    assert refused.value.response.headers["retry-after"] == "30"
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.value.response.headers["x-ratelimit-reset-requests"] == "1m0s"
    await ask(client, "three", model="gpt-6-astra")
    await double.advance(29)
    with pytest.raises(openai.RateLimitError):
        await ask(client, "three")
    await double.advance(1)
    await ask(client, "three")


async def test_tokens_are_charged_as_they_may_be_generated(
    double: Double, client: AsyncOpenAI
) -> None:
    """Prompt and max_tokens; what could never fit is refused without a time to wait."""
    await double.configure(tokens_per_minute=600)
    headers = await headers_of(client, "x" * 400, max_tokens=399)
    assert headers["x-ratelimit-remaining-tokens"] == "100"
    with pytest.raises(openai.RateLimitError) as refused:
        await ask(client, "x" * 400, max_tokens=98)
    assert refused.value.type == "tokens"
    assert refused.value.response.headers["retry-after"] == "10"
    with pytest.raises(openai.RateLimitError, match="Request too large") as refused:
        await ask(client, "one", max_tokens=601)
    assert "retry-after" not in refused.value.response.headers


async def test_the_clock_stands_still_until_it_runs(double: Double) -> None:
    """It moves by `advance`; with `auto` by itself, until that is stopped."""
    start = await double.now()
    assert await double.now() == start
    assert await double.advance(3600) == start + 3600
    await double.auto(1_000_000)
    assert await double.now() > start + 3600
    await double.auto(0)
    stopped = await double.now()
    assert await double.now() == stopped


async def test_seen_tells_all_that_was_asked(double: Double, client: AsyncOpenAI) -> None:
    """Calls in their order, with headers, body and status; until they are forgotten."""
    await ask(client, "one")
    with pytest.raises(openai.BadRequestError):
        await ask(client, "two", n=0)
    await create(client, 2, metadata={"ours": "7"})
    seen = await double.seen()
    first, second = seen.of(CHAT)
    assert first.json()["messages"] == body("one")["messages"]
    assert first.headers["authorization"] == "Bearer sk-test"
    assert [call.status for call in (first, second)] == [200, 400]
    assert [call.path for call in seen.of("/v1/*s", "POST")][2:] == ["/v1/files", "/v1/batches"]
    assert [batch.metadata for batch in seen.batches] == [{"ours": "7"}]
    await double.forget()
    seen = await double.seen()
    assert seen.calls == []
    assert len(seen.batches) == 1


async def test_until_waits_for_calls(double: Double, client: AsyncOpenAI) -> None:
    """It returns with the last of so many calls, those before it included."""
    await ask(client, "one")
    waiting = asyncio.create_task(double.until(CHAT, "POST", count=3))
    await asyncio.gather(ask(client, "two"), client.models.list())
    assert not waiting.done()
    await ask(client, "three")
    await waiting


async def test_reset_makes_it_as_new(double: Double, client: AsyncOpenAI) -> None:
    """Settings, files, batches, faults and records are gone."""
    batch = await create(client, 1)
    await double.configure(keys=["none"])
    await double.fault(status=500, times=None)
    await double.reset()
    assert (await double.seen()).calls == []
    await ask(client, "one")
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve(batch.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(batch.input_file_id)


async def test_an_unknown_setting_is_refused(double: Double) -> None:
    """And nothing is changed by it."""
    async with httpx.AsyncClient() as http:
        control = double.url.removesuffix("/v1") + "/__control__"
        for word, told in (
            ("settings", {"window": "8h"}),
            ("settings", {"windows": "8h"}),
            ("fault", {"path": "/v1/*", "stat": 500}),
            ("fault", {}),
            ("advance", {}),
        ):
            assert (await http.post(f"{control}/{word}", json=told)).status_code == 400
        assert (await http.post(f"{control}/nonsense", json={})).status_code == 404


async def test_an_unknown_url_is_404_in_openais_shape(client: AsyncOpenAI) -> None:
    """So is a method that a URL does not have."""
    for call in (client.get("/threads", cast_to=object), client.delete("/models", cast_to=object)):
        with pytest.raises(openai.NotFoundError, match="Invalid URL"):
            await call


async def test_a_killed_double_refuses_and_another_takes_its_port() -> None:
    """Its state is one process's memory: the new one has none of it."""
    with reserved() as port:
        async with (
            Double(port=port) as first,
            AsyncOpenAI(base_url=first.url, api_key="k", max_retries=0) as client,
        ):
            file = await client.files.create(file=b'{"a": 1}\n', purpose="batch")
            await first.kill()
            with pytest.raises(openai.APIConnectionError):
                await client.files.retrieve(file.id)
            async with Double(port=first.port):
                with pytest.raises(openai.NotFoundError):
                    await client.files.retrieve(file.id)


def test_it_is_started_and_ended_as_a_plain_process() -> None:
    """SIGTERM ends it at once; on a leash, so does the end of its stdin."""
    command = [sys.executable, "-m", "tests.double", "--port", "0"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as plain:
        assert plain.stdout is not None
        assert plain.stdout.readline().startswith(b"http://127.0.0.1:")
        plain.terminate()
        assert plain.wait(10) == -signal.SIGTERM
    with subprocess.Popen([*command, "--leash"], **pipes) as leashed:
        assert leashed.stdin is not None
        assert leashed.stdout is not None
        assert leashed.stdout.readline().endswith(b"/v1\n")
        leashed.stdin.close()
        assert leashed.wait(10) == 0
