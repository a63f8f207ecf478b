"""Whatever the provider does with a background response, its row is answered once."""

from collections import Counter

import pytest

from tests.batches import Json
from tests.double.launch import Double
from tests.faults.provider_rows import (
    ANSWERS,
    ANY,
    ANY_CANCEL,
    AT_ONCE,
    BY_RESPONSE,
    HTML,
    NOTED,
    OPEN,
    RESPONSES,
    SEEN_WINDOW,
    SPEED,
    TRIES,
    batches_of,
    create,
    ended,
    lines,
    made,
    name_of,
    of_requests,
    until,
)
from tests.stack import Stack

pytest_plugins = ("tests.faults.provider_fixtures",)

WAY = BY_RESPONSE
NINE_HOURS_LATER = "update provider_responses set created_at = created_at - interval '9 hours'"


MISDEEDS: dict[str, list[tuple[str, Json]]] = {
    "it answers HTML": [
        (RESPONSES, {"method": "POST", **HTML}),
        (ANY, {"method": "GET", **HTML}),
        (ANY, {"method": "DELETE", **HTML}),
    ],
    "it resets connections": [
        (RESPONSES, {"method": "POST", "reset": True}),
        (ANY, {"method": "GET", "reset": True}),
        (ANY, {"method": "DELETE", "reset": True}),
    ],
    "its answers are lost": [
        (ANY, {"method": "GET", "cut_after_bytes": 10}),
        (ANY, {"method": "DELETE", "cut_after_bytes": 0}),
    ],
    "it refuses all for a while": [
        ("/v1/*", {"status": 401, "times": 2}),
        ("/v1/*", {"status": 429, "times": 1, "headers": {"retry-after-ms": "100"}}),
        ("/v1/*", {"status": 500, "times": 1}),
        (ANY, {"method": "GET", "status": 404, "times": 2}),
    ],
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
async def test_a_provider_that_misbehaves_loses_no_row_and_computes_none_twice(
    bare: Stack, double: Double, misdeed: str
) -> None:
    for path, fault in MISDEEDS[misdeed]:
        await double.fault(path, **fault)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(30))
        await ended(batches, batch, 30)
    responses = await made(double)
    assert set(of_requests(responses).values()) == {1}
    assert len(responses) == 30
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_a_response_whose_creation_was_answered_to_nobody_is_paid_once_more(
    bare: Stack, double: Double
) -> None:
    """It cannot be looked for; its row has one answer all the same."""
    await double.fault(RESPONSES, method="POST", cut_after_bytes=0)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(10))
        await ended(batches, batch, 10)
    assert sorted(of_requests(await made(double)).values()) == [1] * 9 + [2]


async def test_a_key_that_is_revoked_meanwhile_loses_nothing(bare: Stack, double: Double) -> None:
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(10))
        await until(bare, NOTED, 10)
        await double.configure(keys=["sk-another"])
        await double.forget()
        await double.until("/v1/responses*", "GET", 2)
        assert {call.status for call in (await double.seen()).of("/v1/responses*")} <= {401, None}
        await double.configure(keys=None)
        await double.auto(SPEED)
        await ended(batches, batch, 10)
    assert await bare.fetch(TRIES, name_of(batch)) == []
    assert len(await made(double)) == 10


async def test_each_end_of_a_response_is_told_to_its_row(bare: Stack, double: Double) -> None:
    """A passing failure is tried again; others end the row, as errors or as what was cut short."""
    await double.response_fault("Who is r0?", code="server_error")
    await double.response_fault("Who is r1?", code="invalid_prompt", message="It is none.")
    await double.response_fault("Who is r2?", incomplete="content_filter")
    await double.response_fault("Who is r3?", incomplete="max_output_tokens")
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(6))
        items = {item["custom_id"]: item for item in await ended(batches, batch, 6, failed=1)}
    bodies = {name: item["response"]["body"] for name, item in items.items()}
    refused = items["r1"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (400, "invalid_prompt")
    reasons = {
        name: body["choices"][0]["finish_reason"]
        for name, body in bodies.items()
        if "choices" in body
    }
    assert reasons == {
        "r0": "stop",
        "r2": "content_filter",
        "r3": "length",
        "r4": "stop",
        "r5": "stop",
    }
    [tried] = await bare.fetch(TRIES, name_of(batch))
    assert tried["error"].startswith("server_error")


async def test_a_refusal_of_a_response_is_none_of_the_chat(bare: Stack, double: Double) -> None:
    """Its client wrote no `input`: the row goes as it was written, and costs no attempt."""
    await double.fault(
        RESPONSES,
        method="POST",
        holding="Who is r3?",
        status=400,
        body={"error": {"message": "No.", "type": "invalid_request_error", "param": "input"}},
    )
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(5))
        await ended(batches, batch, 5)
    found = await bare.fetch(ANSWERS, name_of(batch))
    ways = {(b"Who is r3?" in row["asked"], row["completion_window"]) for row in found}
    assert ways == {(True, "24h"), (False, "8h")}
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_a_model_that_has_not_the_window_goes_by_another_way(
    bare: Stack, double: Double
) -> None:
    await double.configure(background_windows=[])
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(5))
        await ended(batches, batch, 5)
    found = await bare.fetch(ANSWERS, name_of(batch))
    assert {row["completion_window"] for row in found} == {"24h"}
    assert await made(double) == []


async def test_the_provider_s_rate_limit_is_kept_and_loses_nothing(
    bare: Stack, double: Double
) -> None:
    await double.configure(requests_per_minute=240, queued_seconds=0.1, response_seconds=0.5)
    await double.auto(1)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(260))
        await ended(batches, batch, 260)
    seen = await double.seen()
    assert set(of_requests(seen.responses).values()) == {1}
    statuses = Counter(call.status for call in seen.of(RESPONSES, "POST"))
    assert statuses[200] == 260
    assert statuses[429] <= 2 * AT_ONCE
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_responses_of_a_cancelled_batch_are_cancelled_and_cost_nothing(
    bare: Stack, double: Double
) -> None:
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(20))
        await until(bare, NOTED, 20)
        await batches.cancel(batch["id"])
        await double.until(ANY_CANCEL, "POST", 20)
        assert (await batches.ended(batch["id"]))["status"] == "cancelled"
    await until(bare, OPEN, 0)
    assert {(one.status, one.paid, one.deleted) for one in await made(double)} == {
        ("cancelled", False, True)
    }
    assert await bare.value(SEEN_WINDOW, "completed") == 0


async def test_what_is_not_done_in_its_window_is_cancelled_and_goes_anew(
    bare: Stack, double: Double
) -> None:
    await double.auto(0)
    await double.response_fault("Who is r", stall=True, times=3)
    async with batches_of(bare) as batches:
        batch = await create(batches, lines(10))
        await until(bare, NOTED, 10)
        await double.auto(SPEED)
        await until(bare, NOTED, 3)  # those that stall, for the others are let go of
        await bare.fetch(NINE_HOURS_LATER)
        await ended(batches, batch, 10)
    tries = await bare.fetch(TRIES, name_of(batch))
    assert [row["error"].partition(":")[0] for row in tries] == ["batch_expired"] * 3
    responses = await made(double)
    assert Counter(one.status for one in responses) == {"completed": 10, "cancelled": 3}
    await until(bare, OPEN, 0)
    assert await bare.value(SEEN_WINDOW, "expired") == 1
