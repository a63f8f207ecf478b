"""What a provider batch does not answer goes later, elsewhere or nowhere, as each row deserves."""

import signal

import pytest

from tests.batches import line
from tests.clients import Requests
from tests.double.launch import Double
from tests.faults.provider_rows import (
    BY_FILE,
    MODEL,
    OPEN,
    SPEED,
    TRIED,
    TRIES,
    batches_of,
    ended,
    flex,
    lines,
    name_of,
    names,
    until,
)
from tests.faults.worker import Worker
from tests.stack import Stack

pytest_plugins = ("tests.faults.provider_fixtures",)

WAY = BY_FILE
BACKING_OFF = "select count(*) from queue where state = 2"
FILES, BATCHES = "/v1/files", "/v1/batches"
STATE = "select max(state) from provider_batches where state < 3"
REFUSALS = "select count(*) from provider_batches where error like $1"


async def test_rows_cancelled_before_the_submission_are_not_sent(
    bare: Stack, double: Double, worker: Worker
) -> None:
    """Also those of a file that is on its way already: another one without them takes its place."""
    await double.fault(FILES, method="POST", hang=True)
    worker.end(signal.SIGTERM)  # so that all of them go together
    async with bare.http() as http:
        requests = Requests(http)
        made = [await flex(http, n) for n in range(6)]
        worker.replace()
        await double.until_held()
        for request in made[:4]:
            assert (await requests.cancel(request["id"]))["status"] == "cancelled"
        await double.release()
        for request in made[4:]:
            answered = await requests.until(request["id"], "completed")
            assert (answered["backend"], answered["upstream"]) == ("patient", "gpt-6-luna")
            assert answered["reason"].startswith("Cheapest is the 24h window")
    seen = await double.seen()
    sent = [name for batch in seen.batches for name in batch.custom_ids]
    assert sorted(named(name) for name in sent) == sorted(request["id"] for request in made[4:])


async def test_a_provider_batch_of_cancelled_rows_is_never_submitted(
    bare: Stack, double: Double, worker: Worker
) -> None:
    await double.fault(FILES, method="POST", hang=True)
    worker.end(signal.SIGTERM)  # so that all of them go together
    async with bare.http() as http:
        requests = Requests(http)
        made = [await flex(http, n) for n in range(3)]
        worker.replace()
        await double.until_held()
        for request in made:
            await requests.cancel(request["id"])
        await double.release()
    await until(bare, OPEN, 0)
    assert (await double.seen()).batches == []


async def test_a_provider_batch_that_nobody_needs_is_cancelled(bare: Stack, double: Double) -> None:
    """A cancelled batch of Carpool: the provider computes no line of it."""
    await double.auto(0)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(20))
        await until(bare, STATE, 2)
        await batches.cancel(batch["id"])
        await double.until("/v1/batches/*/cancel", "POST")
        await double.auto(SPEED)
        assert (await batches.ended(batch["id"]))["status"] == "cancelled"
    await until(bare, OPEN, 0)
    seen = await double.seen()
    assert [batch.status for batch in seen.batches] == ["cancelled"]
    assert not seen.lines


async def test_what_the_enqueued_token_limit_keeps_out_returns_and_goes_later(
    bare: Stack, double: Double
) -> None:
    """In halves, where the provider names no limit; it counts as no attempt."""
    await double.batch_fault(code="token_limit_exceeded", message="Enqueued token limit reached.")
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(20))
        await ended(batches, batch, 20)
    seen = [b.status for b in (await double.seen()).batches]
    assert seen[0] == "failed"
    assert set(seen[1:]) == {"completed"}
    assert 2 <= len(seen[1:]) <= 3
    assert await bare.fetch(TRIES, name_of(batch)) == []


async def test_the_enqueued_token_limit_is_learned_from_the_refusal(
    bare: Stack, double: Double
) -> None:
    """One refusal tells the limit; what alone passes it fails with the provider's words."""
    await double.configure(enqueued_tokens=100)
    try:
        async with batches_of(bare) as batches:
            batch = await batches.create(lines(30))
            await ended(batches, batch, 30)
            statuses = [b.status for b in (await double.seen()).batches]
            assert statuses.count("failed") == 1
            assert await bare.fetch(TRIES, name_of(batch)) == []
            huge = {"model": MODEL, "messages": [{"role": "user", "content": "Who? " * 300}]}
            batch = await batches.create([*lines(5), line("r5", body=huge)])
            seen = await batches.ended(batch["id"])
            output, error = await batches.proven(seen, names(6))
        assert (len(output), len(error)) == (5, 1)
        [response] = [item["response"] for item in error]
        assert (response["status_code"], response["body"]["error"]["code"]) == (
            400,
            "token_limit_exceeded",
        )
        assert "Limit: 100 enqueued tokens" in response["body"]["error"]["message"]
    finally:
        await double.configure(enqueued_tokens=None)


async def test_a_row_alone_that_finds_no_room_for_long_fails(bare: Stack, double: Double) -> None:
    """Where no limit is named, after as many attempts as any other failure takes."""
    reason = "Enqueued token limit reached."
    await double.batch_fault(code="token_limit_exceeded", message=reason, times=None)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(1))
        seen = await batches.ended(batch["id"])
        _, [item] = await batches.proven(seen, names(1))
    error = item["response"]["body"]["error"]
    assert (item["response"]["status_code"], error["code"]) == (400, "token_limit_exceeded")


@pytest.mark.parametrize("code", ["token_limit_exceeded", "another"])
async def test_a_refusal_with_a_nul_is_noted_without_it(
    bare: Stack, double: Double, code: str
) -> None:
    await double.batch_fault(code=code, message="Not\0 now.")
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(10))
        await ended(batches, batch, 10)
    assert await bare.value(REFUSALS, f"%{code}: Not now.") == 1


async def test_lines_that_the_provider_names_fail_and_the_others_go_on(
    bare: Stack, double: Double
) -> None:
    """A file of which some lines are refused at validation: each of them ends with that error."""
    await double.configure(models=["gpt-6-luna"])
    odd = [line(f"r{n}", body={"model": MODEL, "messages": []}) for n in range(2)]
    async with batches_of(bare) as batches:
        batch = await batches.create([*odd, *lines(10)[2:]])
        seen = await batches.ended(batch["id"])
        output, error = await batches.proven(seen, names(10))
    assert (len(output), len(error)) == (8, 2)
    assert {item["response"]["status_code"] for item in error} == {400}


async def test_an_answer_that_no_row_can_hold_fails_alone(bare: Stack, double: Double) -> None:
    """Usage past all integers, say: it is tried again, and all behind it stand."""
    answer = {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 10**13}}
    await double.line_fault("Who is r2?", status=200, body=answer)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(10))
        await ended(batches, batch, 10)
    assert sorted((await double.seen()).lines.values()) == [1] * 10
    assert len(await bare.fetch(TRIES, name_of(batch))) == 1


async def test_a_batch_that_the_provider_refuses_for_good_fails_with_its_reason(
    bare: Stack, double: Double
) -> None:
    await double.configure(models=["another"])
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(5))
        seen = await batches.ended(batch["id"])
        _, error = await batches.proven(seen, names(5))
    assert {item["response"]["body"]["error"]["code"] for item in error} == {"model_not_found"}


async def test_what_is_paid_without_an_answer_ends_and_what_costs_nothing_goes_on(
    bare: Stack, double: Double
) -> None:
    """At the last attempt: a 5xx and a 429 go on to the deadline, for they are free."""
    await double.auto(0)
    await double.line_fault("Who is r0?", status=200, body={"no": "answer"}, times=None)
    await double.line_fault("Who is r1?", status=500)
    await double.line_fault("Who is r2?", status=429)
    async with batches_of(bare) as batches:
        batch = await batches.create(lines(4))
        await until(bare, STATE, 2)
        await bare.fetch(TRIED)
        await double.auto(SPEED)
        await until(bare, BACKING_OFF, 2)
        await bare.fetch("update queue set not_before = now() where state = 2")
        items = await ended(batches, batch, 4, failed=1)
    [failed] = [item for item in items if item["response"]["status_code"] != 200]
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("r0", 502)
    assert "neither choices nor data" in failed["response"]["body"]["error"]["message"]
    sent = [b.custom_ids for b in (await double.seen()).batches]
    assert [len(names) for names in sent] == [4, 2]


def named(custom_id: str) -> str:
    """The id that clients see, by a line's custom_id."""
    return f"req_{custom_id.partition('.')[0]}"
