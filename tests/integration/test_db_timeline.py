"""A request's timeline tells all that was written about it, in the order in which it happened."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from carpool.errors import error_body
from carpool.ids import created_at, line_id, new_batch_id, new_id, public_id
from carpool.states import Outcome, ServiceClass
from db.cache import give_answer
from db.delivery import store_deliveries
from db.end import CANCELLED, EXPIRED, end_requests
from db.finish import Failure
from db.timeline import Event, timeline
from tests.integration.sweeping import sweep_now

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

PROVIDER_BATCH = """
insert into provider_batches (
    id, backend, model, upstream, endpoint, completion_window, reason, lines, bytes, tokens
)
values ($1, 'patient', 'tiny', 'tiny', 0, '24h', 'It is cheap.', 1, 1, 1)
"""
OWN = """
update queue set state = 1, owner = $2, owner_kind = 2, epoch = epoch + 1, claimed_at = now()
where id = $1
"""
SUBMITTED = "update provider_batches set state = 2, submitted_at = now() where id = $1"
FINISH = """
with gone as (delete from queue where id = $1 returning *)
insert into results (
    id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
    upstream, run_id, started_at
)
select id, team_id, key_id, model, 0, 200, '{}', false, epoch, 1, 'patient', 'theirs', owner,
    claimed_at
from gone
"""


async def events(bench: "Bench", identifier: UUID) -> list[Event]:
    """The timeline, that is in the order of its moments."""
    found = await timeline(bench.database, identifier)
    assert found == sorted(found, key=lambda event: event.at)
    return found


async def names(bench: "Bench", identifier: UUID) -> list[str]:
    return [event.event for event in await events(bench, identifier)]


async def test_received_claimed_and_answered(bench: "Bench") -> None:
    run = await bench.run()
    [identifier] = await bench.fill(1, service_class=ServiceClass.FLEX)
    [received] = await events(bench, identifier)
    assert received == Event(
        at=created_at(identifier),
        event="received",
        text="Received over /v1/chat/completions, of the class flex.",
    )
    [claimed] = await run.claim(1, service_class=ServiceClass.FLEX)
    _, now = await events(bench, identifier)
    assert (now.event, now.text) == ("claimed", "Claimed by 'engine', which has it now.")
    assert (now.backend, now.worker, now.run, now.epoch) == ("engine", "worker", run.id, 1)
    await run.finish([claimed])
    await store_deliveries(run.lane, [identifier], False)
    found = await events(bench, identifier)
    assert [event.event for event in found] == ["received", "claimed", "completed", "delivered"]
    assert found[1].at == now.at
    assert found[2].text == "Answered by 'engine' as 'tiny'."
    assert (found[2].run, found[2].epoch, found[2].error) == (run.id, 1, None)


async def test_each_attempt_with_its_error(bench: "Bench") -> None:
    """A failure, a rate limit, a lost worker, and then the answer."""
    run = await bench.run()
    [identifier] = await bench.fill(1)
    for epoch, counts in ((1, True), (2, False)):
        await run.claim(1)
        failure = Failure(
            id=identifier, epoch=epoch, delay_seconds=0, error=f"error {epoch}", counts=counts
        )
        await run.finisher.retry(run.lane, [failure])
        await sweep_now(bench.database, lease_seconds=150, grace_seconds=130)
    await run.claim(1)
    await bench.end_process(run)
    await sweep_now(bench.database, lease_seconds=150, grace_seconds=130)
    other = await bench.run()
    claims = await other.claim(1)
    await other.finish(claims)
    found = await events(bench, identifier)
    assert [(event.event, event.epoch, event.error) for event in found] == [
        ("received", None, None),
        ("claimed", 1, None),
        ("failed_attempt", 1, "error 1"),
        ("claimed", 2, None),
        ("failed_attempt", 2, "error 2"),
        ("claimed", 3, None),
        ("lost", 3, "the run died"),
        ("claimed", 5, None),
        ("completed", 5, None),
    ]
    assert {event.run for event in found[1:7]} == {run.id}
    assert {event.run for event in found[7:]} == {other.id}
    assert found[4].text == "A rate limit sent it back, which counts as no attempt."


async def test_how_it_ended_otherwise(bench: "Bench") -> None:
    run = await bench.run()
    failed, cancelled, expired, odd = await bench.fill(4)
    claims = await run.claim(2)
    from tests.integration.db_fixtures import result

    await run.finisher.finish(
        run.lane,
        [
            result(
                claims[0],
                outcome=Outcome.FAILED,
                status_code=422,
                body=error_body("It is <b>bad</b>.", "invalid_request_error", code="bad_input"),
            )
        ],
        False,
    )
    await end_requests(bench.database, [cancelled], CANCELLED)
    await end_requests(bench.database, [expired], EXPIRED)
    await end_requests(bench.database, [odd], CANCELLED)
    await bench.sql("update results set body = '<html>' where id = $1", odd)
    *_, last = await events(bench, failed)
    assert (last.event, last.text) == ("failed", "Failed with the status 422.")
    assert last.error == "bad_input: It is <b>bad</b>."
    assert await names(bench, cancelled) == ["received", "claimed", "cancelled"]
    assert await names(bench, expired) == ["received", "expired"]
    assert (await events(bench, odd))[-1].error == "<html>"


async def test_answers_that_were_computed_for_others(bench: "Bench") -> None:
    from tests.integration.db_fixtures import submission

    run = await bench.run()
    leader, follower = await bench.fill(2, shareable=True)
    [claimed] = await run.claim(2)
    await run.finish([claimed])
    assert await names(bench, leader) == ["received", "claimed", "completed"]
    found = await events(bench, follower)
    assert [event.event for event in found] == ["received", "completed"]
    assert found[1].text == "It got the answer of an identical request that came first."
    deadline = datetime.now(UTC) + timedelta(hours=1)
    kept = submission(deadline=deadline, traceparent="00-1-2-01")
    assert await give_answer(bench.database, leader, kept)
    [stored] = await bench.sql("select deadline, traceparent from requests where id = $1", kept.id)
    assert tuple(stored) == (deadline, "00-1-2-01")
    found = await events(bench, kept.id)
    assert [event.event for event in found] == ["received", "completed"]
    assert found[1].text == "It got an answer that its team has kept."


async def test_a_provider_batch(bench: "Bench") -> None:
    """While it is made, at the provider, and when it has answered: the same story goes on."""
    [line] = await bench.fill(1, service_class=ServiceClass.BATCH)
    batch = new_id()
    await bench.sql(PROVIDER_BATCH, batch)
    await bench.sql(OWN, line, batch)
    found = await events(bench, line)
    assert [event.event for event in found] == ["received", "claimed"]
    assert found[1].text == "Gathered by 'patient' for a provider batch of 24h: It is cheap."
    assert (found[1].backend, found[1].run, found[1].epoch) == ("patient", None, 1)
    await bench.sql(SUBMITTED, batch)
    before = await events(bench, line)
    assert [event.event for event in before] == ["received", "claimed", "submitted"]
    await bench.sql(FINISH, line)
    after = await events(bench, line)
    assert after[:3] == before
    assert (after[3].event, after[3].text) == ("completed", "Answered by 'patient' as 'theirs'.")


async def test_a_line_of_a_batch_and_a_client_that_came_back(bench: "Bench") -> None:
    batch = new_batch_id()
    identifier = line_id(batch, 12)
    await bench.fill(1, id=identifier)
    await bench.sql("update requests set batch_id = $1", batch)
    await bench.sql(
        "insert into reattachments (connection, request_id, successor, incarnation) "
        "values ($1, $2, $1, $1)",
        new_id(),
        identifier,
    )
    found = await events(bench, identifier)
    assert [event.event for event in found] == ["received", "reattached"]
    assert found[0].text == f"Line 12 of {public_id('batch_', batch)}."


async def test_a_client_that_does_not_wait_was_told_the_id(bench: "Bench") -> None:
    run = await bench.run()
    [identifier] = await bench.fill(1)
    await store_deliveries(run.lane, [identifier], False)
    assert await names(bench, identifier) == ["received", "accepted"]
    await run.finish(await run.claim(1))
    assert await names(bench, identifier) == ["received", "accepted", "claimed", "completed"]


async def test_what_goes_on_for_its_followers_is_no_more_its_own(bench: "Bench") -> None:
    run = await bench.run()
    leader, _ = await bench.fill(2, shareable=True)
    await end_requests(bench.database, [leader], CANCELLED)
    assert (await bench.row(leader))["ghost"]
    await run.claim(1)
    assert await names(bench, leader) == ["received", "cancelled"]


async def test_there_is_no_story_of_nobody(bench: "Bench") -> None:
    assert await timeline(bench.database, new_id()) == []
