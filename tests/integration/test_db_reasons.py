"""For each thing that a request can wait for, it is said; and soon, however much waits."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from carpool.ids import new_id, public_id
from carpool.reasons import Reason, Waits
from carpool.routing import Leg, Route
from carpool.states import ServiceClass
from db.follow import wake
from db.keys import create_key
from db.rate_limits import Level, Observation, observe, pause
from db.reasons import group_reasons, reason_of
from db.routes import delete_route, set_route
from db.runs import set_accepting, set_patience

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

BACKEND, MODEL, TEAM = "engine", "tiny", 1
BATCH = {"service_class": ServiceClass.BATCH}
FLEX = {"service_class": ServiceClass.FLEX}
FULL = "update runs set in_flight = capacity"
PACE = """
insert into activity (
    span_seconds, at, team_id, model, backend, completed, failed, cancelled, expired,
    prompt_tokens, cached_tokens, completion_tokens
)
values (10, now() - interval '100 seconds', 1, 'tiny', 'engine', 900, 80, 15, 5, 0, 0, 0)
"""


async def reason(bench: "Bench", identifier: UUID) -> Waits:
    found = await reason_of(bench.database, identifier)
    assert found is not None
    return found


async def code(bench: "Bench", identifier: UUID) -> Reason:
    return (await reason(bench, identifier)).reason


async def route(bench: "Bench", *legs: Leg) -> None:
    await set_route(
        bench.database,
        MODEL,
        Route(legs=legs),
        actor="test",
        backends={leg.backend for leg in legs},
    )


async def test_without_a_route(bench: "Bench") -> None:
    await bench.run()
    [found] = await bench.fill(1)
    await delete_route(bench.database, MODEL, actor="test")
    assert await reason(bench, found) == Waits(
        reason=Reason.NO_ROUTE, text="There is no route of the model 'tiny'.", place=1
    )


async def test_without_a_leg_for_its_class_or_team(bench: "Bench") -> None:
    await bench.run()
    await create_key(bench.database, team="others", name="key")
    [flex] = await bench.fill(1, **FLEX)
    await route(bench, Leg(backend=BACKEND, classes=("interactive",)))
    found = await reason(bench, flex)
    assert found.reason is Reason.NO_ROUTE
    assert found.text == "The route of 'tiny' has no leg for this team's flex requests."
    [mine] = await bench.fill(1)
    assert await code(bench, mine) is Reason.BEHIND
    await route(bench, Leg(backend=BACKEND, teams=("others of others",)))
    assert await code(bench, mine) is Reason.NO_ROUTE
    team = await bench.value("select id from teams where name = 'others'")
    await route(bench, Leg(backend=BACKEND, teams=("others",)))
    [theirs] = await bench.fill(1, team_id=team)
    assert await code(bench, theirs) is Reason.BEHIND


async def test_without_a_leg_at_its_price(bench: "Bench") -> None:
    await bench.run()
    await route(bench, Leg(backend=BACKEND, max_price=1.0))
    [found] = await bench.fill(1)
    waits = await reason(bench, found)
    assert waits.reason is Reason.NO_ROUTE
    assert waits.text == "No leg of its route takes it at today's prices."


async def test_without_a_live_backend(bench: "Bench") -> None:
    [found] = await bench.fill(1)
    waits = await reason(bench, found)
    assert waits.reason is Reason.NO_LIVE_BACKEND
    assert waits.text == "No backend that may answer it is up ('engine')."
    assert (waits.place, waits.eta_seconds) == (1, None)
    run = await bench.run()
    assert await code(bench, found) is Reason.BEHIND
    await set_accepting(run.lane, run.id, accepting=False)
    assert await code(bench, found) is Reason.NO_LIVE_BACKEND


async def test_a_backend_whose_workers_are_paused(bench: "Bench") -> None:
    [found] = await bench.fill(1)
    await bench.process()
    await bench.sql("update processes set backend = 'engine', paused_at = now()")
    waits = await reason(bench, found)
    assert waits.reason is Reason.NO_LIVE_BACKEND
    assert waits.text.endswith("is up ('engine'); their workers are paused.")


async def test_a_leg_that_opens_with_time(bench: "Bench") -> None:
    """Beside a leg that is full its time does not matter; alone, it is what is waited for."""
    await bench.run("later")
    await route(bench, Leg(backend="later", after_seconds=3600))
    [young] = await bench.fill(1)
    waits = await reason(bench, young)
    assert waits.reason is Reason.NOT_YET
    assert waits.text == "Its route opens to 'later' in 60 min."
    old = UUID(int=new_id().int - (3_700_000 << 80))
    await bench.fill(1, id=old)
    assert await code(bench, old) is Reason.BEHIND
    await bench.run()
    await route(bench, Leg(backend=BACKEND), Leg(backend="later", after_seconds=3600))
    await bench.sql(FULL + " where backend = 'engine'")
    await bench.sql("delete from queue where id = $1", old)
    assert await code(bench, young) is Reason.CAP


async def test_a_leg_that_opens_near_the_deadline(bench: "Bench") -> None:
    await bench.run("hurried")
    await route(bench, Leg(backend="hurried", left_seconds=60))
    now = datetime.now(UTC)
    [far] = await bench.fill(1, deadline=now + timedelta(hours=1))
    assert await code(bench, far) is Reason.NOT_YET
    [near] = await bench.fill(1, deadline=now + timedelta(seconds=50))
    assert await code(bench, near) is Reason.BEHIND
    [never] = await bench.fill(1)
    assert (await reason(bench, never)).reason is Reason.NO_ROUTE


async def test_those_of_its_class_and_model_that_go_first(bench: "Bench") -> None:
    """By age, each team in its turn; other models and later classes do not count."""
    await bench.run()
    mine = await bench.fill(5)
    await bench.fill(7, **BATCH)
    await bench.fill(2, model="other")
    for place, identifier in enumerate(mine, 1):
        waits = await reason(bench, identifier)
        assert (waits.reason, waits.place) == (Reason.BEHIND, place)
    assert (await reason(bench, mine[0])).text == "It is next."
    assert (await reason(bench, mine[4])).text == "Behind 4 of its class and model."
    await bench.fill(2, team_id=2)
    await bench.fill(9, team_id=3)
    assert (await reason(bench, mine[4])).place == 1 + 4 + 2 + 4
    [flex] = await bench.fill(1, **FLEX)
    waits = await reason(bench, flex)
    assert (waits.place, waits.text) == (17, "Behind 16 of classes that go first.")


async def test_lines_go_by_prefix_and_so_have_company_but_no_place(bench: "Bench") -> None:
    await bench.run()
    lines = await bench.fill(4, **BATCH)
    waits = await reason(bench, lines[0])
    assert (waits.reason, waits.place) == (Reason.BEHIND, None)
    assert waits.text == "Among 3 others of its class and model, in no order of age."
    await route(bench, Leg(backend=BACKEND, share=50), Leg(backend=BACKEND))
    shares = await bench.fill(3, share=7)
    waits = await reason(bench, shares[0])
    assert waits.text == "Among 2 others of its class and model, in no order of age."


async def test_the_eta_is_of_the_pace_of_late(bench: "Bench") -> None:
    """1,000 in the last 100 seconds."""
    await bench.run()
    ids = await bench.fill(20)
    assert (await reason(bench, ids[19])).eta_seconds is None
    await bench.sql(PACE)
    assert (await reason(bench, ids[19])).eta_seconds == pytest.approx(2.0, rel=0.1)
    assert (await reason(bench, ids[0])).eta_seconds == pytest.approx(0.1, rel=0.1)


async def test_a_full_engine(bench: "Bench") -> None:
    await bench.run()
    first, second = await bench.fill(2)
    await bench.sql(FULL)
    waits = await reason(bench, first)
    assert (waits.reason, waits.place) == (Reason.CAP, 1)
    assert waits.text == "All 256 places of 'engine' are taken."
    waits = await reason(bench, second)
    assert (waits.reason, waits.place) == (Reason.BEHIND, 2)
    assert waits.text == "Behind 1 of its class and model; all 256 places of 'engine' are taken."


async def test_a_rate_limit(bench: "Bench") -> None:
    """Paused, out of calls, or out of tokens; not while another backend may take it."""
    await bench.run()
    [found] = await bench.fill(1)
    await observe(bench.database, BACKEND, MODEL, Observation(requests=Level(60, 20)))
    await pause(bench.database, BACKEND, "another", 600)
    assert await code(bench, found) is Reason.BEHIND
    await pause(bench.database, BACKEND, MODEL, 600)
    waits = await reason(bench, found)
    assert waits.reason is Reason.RATE_LIMITED
    assert waits.text == "The rate limit of 'tiny' at 'engine' is used up for 10 min."
    assert waits.eta_seconds == pytest.approx(600, abs=30)
    await bench.sql("delete from model_limits")
    await observe(bench.database, BACKEND, MODEL, Observation(requests=Level(1, 0)))
    assert (await reason(bench, found)).eta_seconds == pytest.approx(60, abs=30)
    await bench.sql("delete from model_limits")
    tokens = Observation(requests=Level(500, 500), tokens=Level(60, -50))
    await observe(bench.database, BACKEND, MODEL, tokens)
    await bench.sql("update model_limits set tokens_left = -50")
    assert await code(bench, found) is Reason.RATE_LIMITED
    await bench.run("other")
    await route(bench, Leg(backend="other"), Leg(backend=BACKEND))
    assert await code(bench, found) is Reason.BEHIND


async def test_backing_off(bench: "Bench") -> None:
    run = await bench.run()
    [found] = await bench.fill(1)
    [claimed] = await run.claim(1)
    await bench.sql(
        "update queue set state = 2, owner = null, owner_kind = 0, attempts = 1, "
        "not_before = now() + interval '40 minutes' where id = $1",
        claimed.id,
    )
    waits = await reason(bench, found)
    assert (waits.reason, waits.place) == (Reason.BACKING_OFF, None)
    assert waits.text == "It is tried again in 40 min after 1 attempt."
    assert waits.eta_seconds == pytest.approx(2400, abs=30)


async def test_following(bench: "Bench") -> None:
    await bench.run()
    leader, follower = await bench.fill(2, shareable=True)
    assert await code(bench, leader) is Reason.BEHIND
    waits = await reason(bench, follower)
    assert waits.reason is Reason.FOLLOWING
    assert public_id("req_", leader) in waits.text
    await wake(bench.database, [leader])
    assert await code(bench, follower) is Reason.BEHIND


async def test_suspects(bench: "Bench") -> None:
    await bench.run()
    ids = await bench.fill(3)
    await bench.sql("update queue set state = 3, lost = 2 where id = any($1)", ids[:2])
    await bench.sql("update queue set state = 3, lost = 3 where id = $1", ids[2])
    waits = await reason(bench, ids[1])
    assert (waits.reason, waits.place) == (Reason.SUSPECT, 2)
    assert waits.text == (
        "It was lost with its engine 2 times, and runs with few others once an engine is empty."
    )
    waits = await reason(bench, ids[2])
    assert (waits.place, "3 times, and runs alone" in waits.text) == (3, True)


async def gathered(bench: "Bench") -> tuple[UUID, UUID]:
    """A line that waits, then owned by a provider batch that is made: both ids."""
    run = await bench.run()
    await set_patience(run.lane, run.id, 7200)
    [line] = await bench.fill(1, **BATCH)
    waits = await reason(bench, line)
    assert waits.reason is Reason.GATHERING
    assert waits.text == "'engine' gathers what waits for a provider batch."
    batch = new_id()
    await bench.sql(
        "insert into provider_batches (id, backend, model, upstream, endpoint, completion_window, "
        "reason, lines, bytes, tokens) "
        "values ($1, 'engine', 'tiny', 'tiny', 0, '24h', '', 1, 1, 1)",
        batch,
    )
    await bench.sql(
        "update queue set state = 1, owner = $2, owner_kind = 2, epoch = 1, claimed_at = now() "
        "where id = $1",
        line,
        batch,
    )
    return line, batch


async def test_a_provider_batch(bench: "Bench") -> None:
    """Gathered, then at the provider: for how long, and for how much longer, as those before."""
    line, batch = await gathered(bench)
    waits = await reason(bench, line)
    assert waits.reason is Reason.GATHERING
    assert waits.text.startswith("'engine' has made a provider batch of it ")
    await bench.sql(
        "update provider_batches set state = 2, provider_status = 'in_progress', "
        "submitted_at = now() - interval '20 minutes' where id = $1",
        batch,
    )
    waits = await reason(bench, line)
    assert (waits.reason, waits.eta_seconds) == (Reason.PROVIDER, None)
    assert waits.text == (
        "At the provider of 'engine' for 20 min in a batch of 24h, which says 'in_progress'."
    )
    await bench.sql(
        "insert into provider_batches (id, backend, model, upstream, endpoint, completion_window, "
        "reason, lines, bytes, tokens, state, provider_status, submitted_at, ended_at) values ($1, "
        "'engine', 'tiny', 'tiny', 0, '24h', '', 1, 1, 1, 3, 'completed', "
        "now() - interval '3 hours', now() - interval '1 hour')",
        new_id(),
    )
    assert (await reason(bench, line)).eta_seconds == pytest.approx(6000, abs=30)


async def test_interactive_requests_are_not_gathered(bench: "Bench") -> None:
    run = await bench.run()
    await set_patience(run.lane, run.id, 7200)
    [found] = await bench.fill(1)
    assert await code(bench, found) is Reason.NO_ROUTE


async def test_what_does_not_wait_has_no_reason(bench: "Bench") -> None:
    run = await bench.run()
    [found] = await bench.fill(1)
    [claimed] = await run.claim(1)
    assert await reason_of(bench.database, found) is None
    await run.finish([claimed])
    assert await reason_of(bench.database, found) is None
    assert await reason_of(bench.database, new_id()) is None


async def test_groups_have_the_reason_of_their_first(bench: "Bench") -> None:
    run = await bench.run()
    await bench.route("parked", "nowhere")
    await bench.fill(2)
    await bench.fill(2, **FLEX)
    await bench.fill(1, model="parked", team_id=2)
    await bench.fill(1, model="lost", team_id=2)
    [off] = await bench.fill(1, team_id=3, **BATCH)
    await bench.sql(
        "update queue set state = 2, not_before = now() + interval '30 seconds' where id = $1", off
    )
    [suspect] = await bench.fill(1, team_id=4, **BATCH)
    await bench.sql("update queue set state = 3, lost = 2 where id = $1", suspect)
    [follower] = await bench.fill(1, team_id=5, **BATCH)
    await bench.sql("update queue set state = 4, leader = $2 where id = $1", follower, off)
    keys = [
        (MODEL, 0, TEAM),
        (MODEL, 1, TEAM),
        ("parked", 0, 2),
        ("lost", 0, 2),
        (MODEL, 2, 3),
        (MODEL, 2, 4),
        (MODEL, 2, 5),
        (MODEL, 2, 6),
    ]
    found = await group_reasons(bench.database, keys)
    assert {key: waits.reason for key, waits in found.items()} == dict(
        zip(
            keys,
            (
                *(Reason.BEHIND, Reason.BEHIND, Reason.NO_LIVE_BACKEND, Reason.NO_ROUTE),
                *(Reason.BACKING_OFF, Reason.SUSPECT, Reason.FOLLOWING),
            ),
            strict=False,
        )
    )
    assert found[MODEL, 0, TEAM].text == "In turn."
    assert found[MODEL, 1, TEAM].text == "Behind requests of classes that go first."
    await bench.sql(FULL)
    found = await group_reasons(bench.database, keys[:1])
    assert found[MODEL, 0, TEAM].reason is Reason.CAP
    assert await group_reasons(bench.database, []) == {}
    await run.claim(2)
    assert await group_reasons(bench.database, keys[:1]) == {}
