"""The overview tells a known queue exactly, and of a deep one never counts more than it may."""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from carpool.engine import EngineFigures
from carpool.overview import Overview, QueueView
from carpool.routing import Leg, Route
from carpool.states import Outcome, ServiceClass
from db.batch_sweep import FOLD
from db.depths import DepthCounter, count_depths
from db.overview import MOST_QUEUES, OverviewReader, rest_of
from db.routes import read_routing, set_route
from db.runs import beat_run, end_run, set_accepting
from db.submit import submit
from tests.clients import CHAT
from tests.integration.sweeping import sweep_now
from tests.stack import Json, Stack, eventually

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

TEAMS = """
insert into teams (name) select unnest($1::text[]) on conflict do nothing
"""


async def read(bench: "Bench", reader: OverviewReader | None = None, **known: Any) -> Overview:
    """The overview of a bench's database."""
    reader = reader or OverviewReader(bench.database, {"engine": "simulated"})
    lane = bench.lane()
    return (await reader.read(lane, (await read_routing(lane)).routes, **known)).overview


def queue_of(overview: Overview, **columns: Any) -> QueueView:
    """The one group of these columns."""
    [found] = [
        queue
        for queue in overview.queues
        if all(getattr(queue, name) == value for name, value in columns.items())
    ]
    return found


async def test_the_overview_of_an_empty_carpool(bench: "Bench") -> None:
    seen = await read(bench)
    assert (seen.waiting, seen.in_flight, seen.oldest_seconds, seen.queues) == (0, 0, None, [])
    assert seen.rates.error_rate is None
    assert [(b.backend, b.state, b.models) for b in seen.backends] == [
        ("engine", "absent", ["tiny"])
    ]
    assert {p.kind: (p.live, p.paused, p.dead) for p in seen.processes} == dict.fromkeys(
        ("api", "worker", "jobs"), (0, 0, 0)
    )
    assert seen.problems == []


async def test_all_states_of_all_groups_are_counted(bench: "Bench") -> None:
    """With a share of the traffic and without, waiting for whatever reason, and in flight."""
    await bench.sql(TEAMS, ["red", "blue"])
    await bench.fill(5)
    await bench.fill(3, share=77)
    await bench.fill(4, team_id=2, service_class=ServiceClass.BATCH)
    held, suspect, late = await bench.fill(3, team_id=2, service_class=ServiceClass.FLEX)
    run = await bench.run()
    [claimed] = await run.claim(1, team_id=2, service_class=ServiceClass.FLEX)
    assert claimed.id == held
    await bench.sql("update queue set state = 3, lost = 2 where id = $1", suspect)
    await bench.sql(
        "update queue set state = 2, not_before = now() + interval '1 h' where id = $1", late
    )
    depths = await count_depths(bench.lane())
    assert (depths.waiting, depths.in_flight) == (14, 1)
    by_group = {(d.team, d.service_class): d for d in depths.rows}
    assert by_group["red", ServiceClass.INTERACTIVE].ready == 8
    assert by_group["blue", ServiceClass.BATCH].ready == 4
    flex = by_group["blue", ServiceClass.FLEX]
    assert (flex.ready, flex.suspect, flex.backing_off, flex.in_flight) == (0, 1, 1, 1)
    assert flex.oldest == suspect
    seen = await read(bench)
    assert (seen.waiting, seen.in_flight) == (14, 1)
    group = queue_of(seen, team="red", service_class="interactive")
    assert (group.model, group.waiting, group.in_flight) == ("tiny", 8, 0)
    assert group.reason is not None
    assert group.text
    assert json.loads(json_of(seen))["queues"][0]["class"] == "interactive"


def json_of(seen: Overview) -> bytes:
    import msgspec

    return msgspec.json.encode(seen)


async def test_what_ended_gives_the_rates_the_sums_of_today_and_when_the_rest_is_done(
    bench: "Bench",
) -> None:
    from tests.integration.db_fixtures import result

    await bench.fill(60)
    run = await bench.run()
    claims = await run.claim(40)
    results = [
        result(c, outcome=Outcome.FAILED if place < 10 else Outcome.COMPLETED)
        for place, c in enumerate(claims)
    ]
    await run.finisher.finish(run.lane, results, False)
    unfolded = await read(bench)
    assert (unfolded.today.requests, unfolded.rates.requests_per_second) == (40, 0)
    await bench.sql(FOLD, 1000)
    seen = await read(bench)
    assert (seen.today.requests, seen.today.failed) == (40, 10)
    assert (seen.today.input_tokens, seen.today.output_tokens) == (40, 80)
    assert 30 <= seen.rates.span_seconds <= 41
    assert seen.rates.requests_per_second == pytest.approx(40 / seen.rates.span_seconds, rel=0.01)
    assert seen.rates.error_rate == 0.25
    assert [p.code for p in seen.problems] == ["error_rate"]
    pace = seen.rates.requests_per_second
    assert seen.drain_seconds == pytest.approx(20 / pace, rel=0.01)
    assert queue_of(seen, model="tiny").drain_seconds == seen.drain_seconds
    await bench.fill(1, model="stuck")
    seen = await read(bench)
    assert queue_of(seen, model="stuck").drain_seconds is None
    assert seen.drain_seconds is None  # the rest being done is not all being done


async def test_a_backend_tells_its_state_and_what_its_engines_do(bench: "Bench") -> None:
    first, second = await bench.run(), await bench.run()
    await bench.sql("update processes set backend = 'engine'")
    for run, usage in ((first, 0.5), (second, 0.7)):
        figures = EngineFigures(
            kind="vllm",
            running=3,
            waiting=1,
            kv_cache_usage=usage,
            prefix_cache_queries=1000,
            prefix_cache_hits=250,
        )
        await beat_run(run.lane, run.id, [], figures)
    [backend] = (await read(bench, OverviewReader(bench.database, {}))).backends
    assert (backend.kind, backend.state, backend.runs, backend.capacity) == ("vllm", "up", 2, 512)
    engine = backend.engine
    assert engine is not None
    assert (engine.running, engine.waiting) == (6, 2)
    assert (engine.kv_cache_usage, engine.prefix_cache_hit_rate) == (0.6, 0.25)
    for run in (first, second):
        await set_accepting(run.lane, run.id, accepting=False)
    seen = await read(bench)
    assert [b.state for b in seen.backends] == ["down"]
    assert [(p.code, p.backend) for p in seen.problems] == [("backend_down", "engine")]
    await bench.sql("update processes set paused_at = now()")
    assert [b.state for b in (await read(bench)).backends] == ["paused"]


async def test_a_problem_is_told_for_what_nobody_answers_and_who_died(bench: "Bench") -> None:
    await bench.sql(TEAMS, ["red"])
    await bench.fill(2)
    run = await bench.run()
    await bench.sql("update processes set backend = 'engine', kind = 'worker'")
    assert (await read(bench)).problems == []
    await bench.end_process(run)
    await sweep_now(bench.lane(), lease_seconds=15, grace_seconds=1)
    seen = await read(bench)
    codes = [(p.code, p.model, p.backend) for p in seen.problems]
    assert codes == [("no_live_backend", "tiny", None), ("worker_dead", None, "engine")]
    assert "2 requests wait" in seen.problems[0].text
    assert "('engine')" in seen.problems[0].text
    [workers] = [p for p in seen.processes if p.kind == "worker"]
    assert (workers.live, workers.dead) == (0, 1)
    await bench.sql("delete from legs")
    await bench.sql("delete from routes")
    assert (await read(bench)).problems[0].code == "no_route"
    redis = await read(bench, redis_away=True)
    assert redis.problems[-1].code == "redis_away"


async def test_who_waits_since_just_now_has_a_reason_though_the_last_look_took_long(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker is paused behind a look that was slow: the next readings tell of it."""
    await bench.fill(1)
    run = await bench.run()
    await bench.sql("update processes set backend = 'engine', kind = 'worker'")
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    counter = DepthCounter(clock=lambda: 0.0, rest_share=0.0)
    reader = OverviewReader(bench.database, {}, counter=counter)
    assert (await read(bench, reader)).problems == []
    reader._look_seconds = 0.1
    await bench.sql("update processes set paused_at = now()")
    await end_run(run.lane, run.id)
    now[0] += 0.5
    assert (await read(bench, reader)).problems == []
    now[0] += 2.0
    [problem] = (await read(bench, reader)).problems
    assert problem.code == "no_live_backend"
    assert "their workers are paused" in problem.text


@pytest.mark.parametrize(
    ("took", "news", "seconds"),
    [(0.001, False, 1), (0.01, False, 2), (0.01, True, 1), (0.1, True, 2), (9.0, True, 5)],
)
def test_reasons_rest_after_a_look_and_less_where_there_is_news(
    took: float, news: bool, seconds: float
) -> None:
    assert rest_of(took, news=news) == pytest.approx(seconds)


async def test_a_worker_that_left_in_order_is_no_problem(bench: "Bench") -> None:
    await bench.run()
    await bench.sql("update processes set backend = 'engine', ended_at = now(), left_at = now()")
    await sweep_now(bench.lane(), lease_seconds=15, grace_seconds=1)
    seen = await read(bench)
    assert seen.problems == []
    assert await bench.value("select count(*) from processes") == 0


async def test_groups_without_room_are_told_together(bench: "Bench") -> None:
    """However many teams wait, an overview stays small, and its sums are right."""
    from tests.integration.db_fixtures import submission

    teams = MOST_QUEUES + 40
    await bench.sql(TEAMS, [f"team {number}" for number in range(teams)])
    numbers = [*range(1, teams + 1), *range(1, 21)]
    await submit(bench.lane(), [submission(team_id=team) for team in numbers], False)
    seen = await read(bench)
    assert seen.waiting == teams + 20
    assert len(seen.queues) == MOST_QUEUES + 1
    rest = queue_of(seen, team=None)
    assert (rest.model, rest.service_class, rest.waiting) == ("tiny", "interactive", 40)
    assert sum(queue.waiting for queue in seen.queues) == seen.waiting


async def test_a_count_rests_a_hundred_times_as_long_as_it_took(bench: "Bench") -> None:
    """Whatever the queue holds, counting it takes a percent of a core at most."""
    counts = ((0.0, 0.5), (1.0, 1.0, 1.5), (2.0, 2.0, 2.5))
    ticks = iter((*(tick for count in counts for tick in count), 51.9, 52.0, 52.0, 52.5))
    counter = DepthCounter(clock=lambda: next(ticks))
    for _ in counts:
        last = await counter.look(bench.lane())
    await bench.fill(1)
    assert await counter.look(bench.lane()) is last
    assert (await counter.look(bench.lane())).waiting == 1


async def test_a_count_that_was_held_up_does_not_rest_the_longer(bench: "Bench") -> None:
    """Nor does the first of all, of which nobody knows yet what it costs."""
    quick, late = ((1.0, 1.0, 1.001), (2.0, 2.0, 2.001)), (3.0, 3.0, 3.2)
    ticks = iter((0.0, 0.2, *(t for count in (*quick, late) for t in count), 3.15, 3.15, 3.151))
    counter = DepthCounter(clock=lambda: next(ticks))
    for _ in range(4):
        await counter.look(bench.lane())
    await bench.fill(1)
    assert (await counter.look(bench.lane())).waiting == 1


async def test_a_count_reads_indexes_alone(bench: "Bench") -> None:
    """Of a deep queue, where the table would be several times as much to read."""
    from db.depths import DEPTHS

    await bench.fill(2000)
    await bench.sql("vacuum (analyze) queue")
    connection = await bench.connection()
    plan = json.loads(await connection.fetchval("explain (format json) " + DEPTHS))[0]["Plan"]
    scans: list[str] = []

    def walk(node: Json) -> None:
        if node.get("Relation Name") == "queue":
            scans.append(node["Node Type"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan)
    assert "Seq Scan" not in scans
    assert scans.count("Index Only Scan") >= 2


async def test_marks_change_with_what_they_stand_for_and_with_nothing_else(bench: "Bench") -> None:
    reader = OverviewReader(bench.database, {})

    async def marks() -> dict[str, object]:
        lane = bench.lane()
        return dict((await reader.read(lane, (await read_routing(lane)).routes)).marks)

    before = await marks()
    await bench.fill(3)
    assert await marks() == before

    async def changed(change: Callable[[], Any]) -> set[str]:
        before = await marks()
        await change()
        after = await marks()
        return {what for what in after if after[what] != before[what]}

    route = Route(legs=(Leg(backend="engine", upstream="other"),))
    assert await changed(
        lambda: set_route(bench.database, "tiny", route, actor="t", backends={"engine"})
    ) == {"routes"}
    assert await changed(bench.run) == {"workers"}
    assert await changed(lambda: bench.sql("update processes set paused_at = now()")) == {"workers"}


async def test_a_running_carpool_is_seen_by_an_admin(stack: Stack) -> None:
    async with httpx.AsyncClient(
        base_url=f"{stack.root_url}/admin/v1",
        headers={"authorization": f"Bearer {stack.admin_key}"},
        timeout=30,
    ) as admin:
        await stack.route("parked-here", "nowhere-else")
        key = await stack.new_key("<b>team</b>")
        async with stack.http(key.secret) as http:
            left = await http.post(
                "/chat/completions",
                json=CHAT | {"model": "parked-here"},
                headers={"prefer": "respond-async"},
            )

            async def waits() -> Json | None:
                overview: Json = (await admin.get("/overview")).json()
                queues = [q for q in overview["queues"] if q["model"] == "parked-here"]
                return queues[0] if queues and queues[0]["reason"] else None

            async def up() -> bool:
                backend: Json = (await admin.get("/backends/simulated")).json()
                return bool(backend["state"] == "up")

            group = await eventually(waits)
            assert (group["team"], group["reason"]) == ("<b>team</b>", "no_live_backend")
            found = (await admin.get("/backends/nowhere-else")).json()
            assert (found["state"], found["waiting"], found["demand"]) == ("absent", 1, 1)
            await eventually(up)
            assert (await admin.get("/backends/none")).status_code == 404
            teams = (await admin.get("/teams")).json()["data"]
            assert {"<b>team</b>": 1}.items() <= {t["id"]: t["keys"] for t in teams}.items()
            await http.delete(f"/requests/{left.json()['id']}")
