"""What the double is told to do wrong it does, as often as it was told, and no more."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.double.asking import CHAT, ask, body, create, entries, ids, stream
from tests.double.launch import Double

DONE_SECONDS = 62
PAGE = "<html><body>502 Bad Gateway</body></html>"
BROKEN = (openai.APIConnectionError, httpx2.RequestError)
"""Of a connection: the stock client lets what happens inside a stream through as it is."""


async def texts(client: AsyncOpenAI, text: str, into: list[str]) -> None:
    """Read a stream's chunks, as far as they come."""
    async for chunk in await stream(client, text):
        into.append(chunk.choices[0].delta.content or "")


async def test_a_status_is_answered_so_many_times(double: Double, client: AsyncOpenAI) -> None:
    """Then all is well again; nothing was done for those that failed."""
    await double.fault(CHAT, status=429, times=2, headers={"retry-after": "7"})
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client, "one")
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "7"
    await ask(client, "one")
    assert [call.status for call in (await double.seen()).of(CHAT)] == [429, 429, 200]


async def test_a_storm_lasts_until_it_is_cleared(double: Double, client: AsyncOpenAI) -> None:
    """For the paths, methods and bodies that match, and no others."""
    number = await double.fault("/v1/*completions", status=500, holding="bad", times=None)
    await double.fault("/v1/files", method="GET", status=503, times=None)
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            await ask(client, "bad")
    await ask(client, "good")
    await create(client, 1)
    with pytest.raises(openai.InternalServerError):
        await client.files.list()
    await double.clear(number)
    await ask(client, "bad")
    with pytest.raises(openai.InternalServerError):
        await client.files.list()
    await double.clear()
    await client.files.list()


async def test_the_oldest_fault_comes_first(double: Double, client: AsyncOpenAI) -> None:
    """Several make a sequence."""
    await double.fault(CHAT, status=500)
    await double.fault(CHAT, status=503)
    statuses = []
    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as failed:
            await ask(client, "one")
        statuses.append(failed.value.status_code)
    assert statuses == [500, 503]


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (200, PAGE, "text/html"),
        (502, PAGE, "text/html"),
        (200, '{"id": "c-1", "choi', "application/json"),
        (200, {"error": {"message": "sorry"}}, "application/json"),
    ],
)
async def test_any_body_is_answered_with_any_status(
    double: Double, client: AsyncOpenAI, status: int, told: Any, kind: str
) -> None:
    """Pages of a gateway, JSON cut short, an error with status 200."""
    await double.fault(CHAT, status=status, body=told)
    try:
        raw = (await client.chat.completions.with_raw_response.create(**body("one"))).http_response
    except openai.APIStatusError as error:
        raw = error.response
    assert raw.status_code == status
    assert raw.text == (told if isinstance(told, str) else json.dumps(told, separators=(",", ":")))
    assert raw.headers["content-type"] == kind


async def test_a_reset_is_before_anything_was_done(double: Double, client: AsyncOpenAI) -> None:
    """The client sees a broken connection; the double, a call without a status."""
    await double.fault("/v1/batches", reset=True)
    with pytest.raises(openai.APIConnectionError) as failed:
        await create(client, 1)
    assert isinstance(failed.value.__cause__, httpx2.ReadError)
    seen = await double.seen()
    assert seen.of("/v1/batches")[0].status is None
    assert seen.batches == []


async def test_an_answer_can_be_lost_after_all_was_done(
    double: Double, client: AsyncOpenAI
) -> None:
    """The batch is there, though nobody was told of it."""
    await double.fault("/v1/batches", cut_after_chunks=0)
    with pytest.raises(openai.APIConnectionError):
        await create(client, 1)
    assert len((await double.seen()).batches) == 1
    assert len((await client.batches.list()).data) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_breaks_after_so_many_chunks(
    double: Double, client: AsyncOpenAI, reset: bool
) -> None:
    """Closed, all of them arrive first; reset, at most so many."""
    await double.fault(CHAT, cut_after_chunks=3, reset=reset)
    got: list[str] = []
    with pytest.raises(BROKEN):
        await texts(client, "one", got)
    said = ["", *double.text(body("one")).replace(" ", "\0 ").split("\0")]
    assert got == said[: len(got)]
    assert len(got) <= 3 if reset else len(got) == 3


async def test_a_whole_answer_breaks_after_so_many_bytes(
    double: Double, client: AsyncOpenAI
) -> None:
    """Its length was promised, so the client notices."""
    await double.fault(CHAT, cut_after_bytes=20)
    with pytest.raises(openai.APIConnectionError):
        await ask(client, "one")
    assert (await double.seen()).of(CHAT)[0].status == 200


async def test_a_download_is_cut(double: Double, client: AsyncOpenAI) -> None:
    """The output file breaks off once; then it comes whole."""
    batch = await create(client, 500)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    await double.fault("/v1/files/*/content", cut_after_bytes=100_000)
    with pytest.raises(BROKEN):
        await entries(client, batch.output_file_id)
    assert len(await entries(client, batch.output_file_id)) == 500


async def test_a_request_hangs_until_it_is_released(double: Double, client: AsyncOpenAI) -> None:
    """Nothing is done for it before."""
    await double.fault("/v1/batches", hang=True)
    hanging = asyncio.create_task(create(client, 1))
    await double.until_held()
    seen = await double.seen()
    assert (seen.held, seen.batches) == (1, [])
    assert not hanging.done()
    await double.release()
    assert (await hanging).status == "validating"
    assert (await double.seen()).held == 0


async def test_an_answer_hangs_though_all_was_done(double: Double, client: AsyncOpenAI) -> None:
    """So that a test can kill the one who waits for it."""
    await double.fault("/v1/batches", hang_after_chunks=0)
    hanging = asyncio.create_task(create(client, 1))
    await double.until_held()
    assert len((await double.seen()).batches) == 1
    assert not hanging.done()
    await double.release()
    await hanging


async def test_a_stream_hangs_in_the_middle(double: Double, client: AsyncOpenAI) -> None:
    """What came before it was sent."""
    await double.fault(CHAT, hang_after_chunks=2)
    chunks = await stream(client, "one")
    await anext(chunks)
    await anext(chunks)
    await double.until_held()
    rest = asyncio.create_task(anext(chunks))
    await double.release()
    assert (await rest).choices[0].delta.content == " shares"
    await chunks.close()


async def test_who_goes_away_hangs_no_more(double: Double, client: AsyncOpenAI) -> None:
    """A client that gave up leaves nothing held, and nothing done."""
    await double.fault("/v1/batches", hang=True)
    hanging = asyncio.create_task(create(client, 1))
    await double.until_held()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    while (await double.seen()).held:
        pass
    assert (await double.seen()).batches == []


async def test_a_delay_is_real(double: Double, client: AsyncOpenAI) -> None:
    """A client that is less patient times out."""
    await double.fault(CHAT, delay_seconds=60)
    with pytest.raises(openai.APITimeoutError):
        await ask(client.with_options(timeout=0.05), "one")
    await double.clear()  # a client may have given up before it was heard
    await double.fault(CHAT, delay_seconds=0.01)
    await ask(client, "one")


async def test_a_line_fails_with_a_status(double: Double, client: AsyncOpenAI) -> None:
    """It stands in the error file, and is not paid."""
    await double.line_fault('"r1"', status=429)
    await double.line_fault('"r2"', status=500, body=PAGE)
    await double.line_fault('"r3"', code="batch_expired")
    batch = await create(client, 5)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, await ids(client, batch.output_file_id)) == ("completed", ["r0", "r4"])
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 3)
    errors = {entry["custom_id"]: entry for entry in await entries(client, batch.error_file_id)}
    assert errors["r1"]["response"]["status_code"] == 429
    assert errors["r1"]["response"]["body"]["error"]["code"] == "rate_limit_exceeded"
    assert errors["r2"]["response"]["body"] == PAGE
    assert errors["r3"]["response"] is None
    assert errors["r3"]["error"]["code"] == "batch_expired"
    assert (await double.seen()).lines == {"r0": 1, "r4": 1}


async def test_a_line_that_no_model_can_read_fails_alone(
    double: Double, client: AsyncOpenAI
) -> None:
    """A parameter out of place is a 400 in the error file, as live, and not of the batch."""
    lines = [
        {"custom_id": name, "method": "POST", "url": CHAT, "body": body(name, n=n)}
        for name, n in (("good", 1), ("bad", "two"))
    ]
    batch = await create(client, lines)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    assert await ids(client, batch.output_file_id) == ["good"]
    (error,) = await entries(client, batch.error_file_id)
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "n"


async def test_when_all_lines_fail_there_is_no_output_file(
    double: Double, client: AsyncOpenAI
) -> None:
    """`output_file_id` is null though the batch is completed."""
    await double.line_fault("", status=500, times=None)
    batch = await create(client, 2)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert await ids(client, batch.error_file_id) == ["r0", "r1"]


async def test_an_output_file_is_wrong(double: Double, client: AsyncOpenAI) -> None:
    """A line missing, one doubled, one cut short, and two that nobody asked for; all were paid."""
    await double.line_fault('"r0"', missing=True)
    await double.line_fault('"r1"', doubled=True)
    await double.line_fault('"r2"', text='{"custom_id": "r2", "resp')
    await double.batch_fault(unknown_lines=2)
    batch = await create(client, 4)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    content = (await client.files.content(batch.output_file_id or "")).content
    lines = content.decode().splitlines()
    lines.remove('{"custom_id": "r2", "resp')
    found = sorted(json.loads(one)["custom_id"] for one in lines)
    assert found == ["r1", "r1", "r3", "unknown-0", "unknown-1"]
    assert (await double.seen()).lines == {"r0": 1, "r1": 1, "r2": 1, "r3": 1}


async def test_a_batch_fails_at_validation(double: Double, client: AsyncOpenAI) -> None:
    """That one alone whose metadata was named."""
    await double.batch_fault(holding='"unlucky"', code="token_limit_exceeded", message="Too much.")
    lucky = await create(client, 1)
    unlucky = await create(client, 1, metadata={"who": "unlucky"})
    await double.advance(DONE_SECONDS)
    assert (await client.batches.retrieve(lucky.id)).status == "completed"
    unlucky = await client.batches.retrieve(unlucky.id)
    assert unlucky.errors is not None
    (error,) = unlucky.errors.data or []
    assert (unlucky.status, error.code, error.message) == (
        "failed",
        "token_limit_exceeded",
        "Too much.",
    )


async def test_a_batch_sticks_and_expires(double: Double, client: AsyncOpenAI) -> None:
    """With only a part done."""
    await double.batch_fault(stall_after=2)
    batch = await create(client, 5)
    await double.advance(DONE_SECONDS)
    batch = await client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed) == ("in_progress", 2)
    await double.advance(24 * 3600)
    batch = await client.batches.retrieve(batch.id)
    assert batch.status == "expired"
    assert await ids(client, batch.output_file_id) == ["r0", "r1"]
    assert await ids(client, batch.error_file_id) == ["r2", "r3", "r4"]
