"""The double's background responses go by its clock, and keep the rules of their windows."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall

from tests.double.asking import MODEL, body
from tests.double.launch import Double

Json = dict[str, Any]


async def create(
    client: AsyncOpenAI, text: str = "one", window: str = "2h", **more: Any
) -> Response:
    """A response with a completion window."""
    asked: Json = {
        "model": MODEL,
        "input": [{"role": "user", "content": text}],
        "background": True,
        "background_options": {"completion_window": window},
        "store": True,
    }
    made: Response = await client.responses.create(**asked | more)
    return made


async def later(client: AsyncOpenAI, double: Double, response: Response) -> Response:
    """The same when its time has passed."""
    await double.advance(61)
    return await client.responses.retrieve(response.id)


async def test_it_is_queued_in_progress_and_completed(double: Double, client: AsyncOpenAI) -> None:
    """Its text is that of the same chat, whatever else the body says."""
    made = await create(client, metadata={"mine": "1"})
    assert (made.status, made.background, made.metadata) == ("queued", True, {"mine": "1"})
    await double.advance(1)
    assert (await client.responses.retrieve(made.id)).status == "in_progress"
    await double.advance(59)
    assert (await client.responses.retrieve(made.id)).status == "in_progress"
    await double.advance(1)
    done = await client.responses.retrieve(made.id)
    assert (done.id, done.status, done.service_tier) == (made.id, "completed", "default")
    assert done.output_text == double.text(body("one"))
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    [seen] = (await double.seen()).responses
    assert (seen.completion_window, seen.paid, seen.metadata) == ("2h", True, {"mine": "1"})


async def test_parts_and_texts_are_answered_as_a_chat_is(
    double: Double, client: AsyncOpenAI
) -> None:
    parts = [{"type": "input_text", "text": "one"}]
    made = await create(client, input=[{"role": "user", "content": parts}])
    done = await later(client, double, made)
    chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]}
    assert done.output_text == double.text(chat)
    assert (await client.responses.create(model=MODEL, input="one")).output_text == double.text(
        body("one")
    )


async def test_one_that_is_cancelled_costs_nothing(double: Double, client: AsyncOpenAI) -> None:
    """A second cancel, and one of what is done, give the object as it is."""
    made = await create(client)
    for _ in range(2):
        assert (await client.responses.cancel(made.id)).status == "cancelled"
    assert (await later(client, double, made)).status == "cancelled"
    done = await later(client, double, await create(client))
    assert (await client.responses.cancel(done.id)).status == "completed"
    assert [seen.paid for seen in (await double.seen()).responses] == [False, True]


async def test_one_that_is_deleted_is_gone(double: Double, client: AsyncOpenAI) -> None:
    done = await later(client, double, await create(client))
    await client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(done.id)
    [seen] = (await double.seen()).responses
    assert (seen.paid, seen.deleted) == (True, True)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"background": False}, "background"),
        ({"store": False}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"stream": True}, "stream"),
        (
            {"background_options": {"completion_window": "24h"}},
            "background_options.completion_window",
        ),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"extra_body": {"seed": 1}}, "seed"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input"),
    ],
)
async def test_what_a_window_excludes_is_refused(
    double: Double, client: AsyncOpenAI, changes: Json, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await create(client, **changes)
    assert refused.value.param == param


async def test_the_windows_on_offer_are_settings(double: Double, client: AsyncOpenAI) -> None:
    await double.configure(background_windows=["8h"])
    await create(client, window="8h")
    with pytest.raises(openai.BadRequestError):
        await create(client, window="2h")


async def test_a_limit_of_tokens_cuts_it_off(double: Double, client: AsyncOpenAI) -> None:
    await double.response_fault("two", incomplete="content_filter")
    long = await later(client, double, await create(client, max_output_tokens=16))
    assert long.status == "completed"
    cut = await later(client, double, await create(client, "two"))
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "content_filter")


async def test_faults_let_it_fail_or_go_on_for_ever(double: Double, client: AsyncOpenAI) -> None:
    await double.response_fault("one", code="server_error", message="Oh.")
    await double.response_fault("two", stall=True)
    failed = await later(client, double, await create(client))
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.message) == (
        "failed",
        "server_error",
        "Oh.",
    )
    stalled = await create(client, "two")
    await double.advance(86_400)
    assert (await client.responses.retrieve(stalled.id)).status == "in_progress"
    assert not any(seen.paid for seen in (await double.seen()).responses)


async def test_a_function_that_must_be_called_is(double: Double, client: AsyncOpenAI) -> None:
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    choice = {"type": "function", "name": "f"}
    done = await later(client, double, await create(client, tools=[tool], tool_choice=choice))
    [call] = done.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments) == ("f", "{}")


async def test_creations_are_charged_to_the_rate_limits(
    double: Double, client: AsyncOpenAI
) -> None:
    await double.configure(requests_per_minute=1)
    await create(client)
    with pytest.raises(openai.RateLimitError) as refused:
        await create(client)
    assert refused.value.response.headers["retry-after"] == "60"
    assert len((await double.seen()).responses) == 1
