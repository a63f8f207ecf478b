"""What was deep and what was done can be looked back on, also after a restart and a week later."""

import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from carpool.states import ServiceClass
from db.activity import (
    MOST_SERIES,
    OTHERS,
    ActivityBy,
    DepthBy,
    History,
    Window,
    activity_history,
    depth_history,
)
from db.batch_sweep import FOLD
from db.history import Recorder, fold_histories
from tests.clients import CHAT
from tests.stack import Json, Stack, eventually

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SAMPLE = """
insert into queue_depths (
    span_seconds, at, model, class, team_id, waiting, in_flight, oldest_seconds
) values ($1, $2, $3, $4, $5, $6, $7, $8)
"""
BUCKET = """
insert into activity (
    span_seconds, at, team_id, model, backend, completed, failed, cancelled, expired,
    prompt_tokens, cached_tokens, completion_tokens
) values (10, $1, $2, $3, $4, $5, $6, 0, 0, $7, 0, $8)
"""
TEAMS = "insert into teams (name) values ('red'), ('blue')"


async def sample(bench: "Bench", seconds_ago: float, *row: Any, span: int = 10) -> None:
    """Note a group of a sample of that time; no group is an empty queue."""
    values = row or ("", 0, 0, 0, 0, 0.0)
    await bench.sql(SAMPLE, span, NOW - timedelta(seconds=seconds_ago), *values)


def last(history: History, name: str, field: str, number: int) -> list[float | None]:
    """The last values of a series."""
    [series] = [found for found in history.series if found["name"] == name]
    assert len(series[field]) == len(history.at)
    return list(series[field][-number:])


async def test_a_sample_is_told_by_model_class_or_team(bench: "Bench") -> None:
    await bench.sql(TEAMS)
    await sample(bench, 20, "tiny", 0, 1, 5, 2, 7.5)
    await sample(bench, 20, "tiny", 2, 2, 100, 0, 60.0)
    await sample(bench, 20, "big", 2, 0, 9, 0, 1.0)
    await sample(bench, 10, "tiny", 0, 1, 1, 0, 17.5)
    by_model = await depth_history(bench.database, Window.HOUR, DepthBy.MODEL, now=NOW)
    assert (len(by_model.at), by_model.at[-1]) == (360, NOW.timestamp() - 10)
    assert last(by_model, "tiny", "waiting", 3) == [None, 105.0, 1.0]
    assert last(by_model, "tiny", "in_flight", 3) == [None, 2.0, 0.0]
    assert last(by_model, "big", "waiting", 3) == [None, 9.0, 0.0]
    assert list(by_model.oldest[-3:]) == [None, 60.0, 17.5]
    by_class = await depth_history(bench.database, Window.HOUR, DepthBy.CLASS, now=NOW)
    assert [found["name"] for found in by_class.series] == ["batch", "interactive"]
    by_team = await depth_history(bench.database, Window.HOUR, DepthBy.TEAM, now=NOW)
    assert last(by_team, "red", "waiting", 2) == [5.0, 1.0]
    assert last(by_team, OTHERS, "waiting", 2) == [9.0, 0.0]


async def test_an_empty_queue_is_zero_until_the_next_sample_and_a_gap_is_none(
    bench: "Bench",
) -> None:
    await sample(bench, 3000, "tiny", 0, 1, 5, 0, 1.0)
    await sample(bench, 2000)
    await sample(bench, 1000, "tiny", 0, 1, 8, 0, 1.0)
    history = await depth_history(bench.database, Window.HOUR, DepthBy.MODEL, now=NOW)
    [tiny] = history.series
    values = dict(zip(history.at, tiny["waiting"], strict=True))

    def at(seconds_ago: float) -> float | None:
        found: float | None = values[NOW.timestamp() - seconds_ago]
        return found

    assert (at(3010), at(3000), at(2900), at(2500)) == (None, 5.0, 5.0, None)
    assert (at(2000), at(1500), at(1010), at(1000)) == (0.0, 0.0, 0.0, 8.0)
    assert at(500) is None


async def test_a_queue_that_has_been_empty_for_days_is_zero_and_not_unknown(bench: "Bench") -> None:
    await sample(bench, 3 * 86400, span=300)
    for window in Window:
        history = await depth_history(bench.database, window, DepthBy.MODEL, now=NOW)
        assert set(history.oldest) == {0.0}


async def test_a_recorder_notes_the_empty_queue_once_and_each_sample_once(bench: "Bench") -> None:
    recorder = Recorder()
    await recorder.record(bench.lane())
    assert await bench.value("select array_agg(model) from queue_depths") == [""]
    await recorder.record(bench.lane())
    await Recorder().record(bench.lane())
    await bench.fill(3, service_class=ServiceClass.FLEX)
    await bench.sql("delete from queue_depths")
    await Recorder().record(bench.lane())
    rows = await bench.sql(
        "select model, class, waiting, extract(epoch from at) as at from queue_depths"
    )
    assert [(r["model"], r["class"], r["waiting"], r["at"] % 10) for r in rows] == [
        ("tiny", 1, 3, 0)
    ]


async def test_activity_is_what_was_folded(bench: "Bench") -> None:
    await bench.sql(TEAMS)
    await bench.fill(6)
    await bench.fill(4, team_id=2)
    run = await bench.run()
    await run.finish([*await run.claim(6), *await run.claim(4, team_id=2)])
    await bench.sql(FOLD, 1000)
    later = datetime.now(UTC) + timedelta(seconds=10)
    for by, names in (
        (ActivityBy.TEAM, {"red": 6, "blue": 4}),
        (ActivityBy.MODEL, {"tiny": 10}),
        (ActivityBy.BACKEND, {"engine": 10}),
    ):
        history = await activity_history(bench.database, Window.HOUR, by, now=later)
        assert {
            s["name"]: round(sum(s["requests_per_second"]) * 10) for s in history.series
        } == names
        assert sum(sum(s["output_tokens_per_second"]) for s in history.series) == pytest.approx(2.0)


async def test_old_steps_are_folded_to_five_minutes_and_forgotten_after_a_week(
    bench: "Bench",
) -> None:
    """Depths become their mean, activity its sum; what is recent stays as fine as it was."""
    began = datetime.fromtimestamp(datetime.now(UTC).timestamp() // 300 * 300 - 3 * 3600, UTC)
    for step in range(60):
        at = began + timedelta(seconds=10 * step)
        await bench.sql(SAMPLE, 10, at, "tiny", 0, 1, step, 2, float(step))
        await bench.sql(BUCKET, at, 1, "tiny", "engine", 3, 1, 10, 20)
    fresh = datetime.now(UTC) - timedelta(minutes=30)
    await bench.sql(SAMPLE, 10, fresh, "tiny", 0, 1, 7, 0, 1.0)
    await bench.sql(BUCKET, fresh, 1, "tiny", "engine", 1, 0, 1, 1)
    ancient = datetime.now(UTC) - timedelta(days=9)
    await bench.sql(SAMPLE, 300, ancient, "tiny", 0, 1, 7, 0, 1.0)
    before = await bench.value("select sum(completed) from activity")
    await fold_histories(bench.lane())
    await fold_histories(bench.lane())
    rows = await bench.sql("select * from queue_depths order by at")
    assert [(r["span_seconds"], r["at"], r["waiting"], r["oldest_seconds"]) for r in rows] == [
        (300, began, 15, 29.0),
        (300, began + timedelta(seconds=300), 45, 59.0),
        (10, fresh, 7, 1.0),
    ]
    buckets = await bench.sql("select * from activity order by at")
    assert [(b["span_seconds"], b["completed"], b["failed"]) for b in buckets] == [
        (300, 90, 30),
        (300, 90, 30),
        (10, 1, 0),
    ]
    assert await bench.value("select sum(completed) from activity") == before
    history = await depth_history(bench.database, Window.DAY, DepthBy.MODEL)
    values = dict(zip(history.at, history.series[0]["waiting"], strict=True))
    assert values[began.timestamp()] == 15
    assert values[began.timestamp() + 300] == 45


async def test_more_names_than_a_chart_holds_are_one_more(bench: "Bench") -> None:
    for number in range(MOST_SERIES + 5):
        await sample(bench, 10, f"m{number:02}", 0, 1, 100 - number, 0, 1.0)
    history = await depth_history(bench.database, Window.HOUR, DepthBy.MODEL, now=NOW)
    assert [found["name"] for found in history.series][:2] == ["m00", "m01"]
    assert (len(history.series), history.series[-1]["name"]) == (MOST_SERIES, OTHERS)
    assert sum(s["waiting"][-1] for s in history.series) == sum(range(76, 101))


async def test_a_history_survives_its_processes(stack: Stack) -> None:
    """What was served before the API and the worker were killed is there after."""
    async with stack.http() as http:
        for _ in range(5):
            assert (await http.post("/chat/completions", json=CHAT)).is_success

    async def told(path: str) -> Json:
        headers = {"authorization": f"Bearer {stack.admin_key}"}
        async with httpx.AsyncClient(base_url=stack.root_url, headers=headers, timeout=30) as admin:
            found: Json = (await admin.get(f"/admin/v1/{path}")).json()
            return found

    async def kept() -> tuple[float, int] | None:
        activity, depths = await told("activity"), await told("depths")
        requests = sum(sum(s["requests_per_second"]) for s in activity["series"]) * 10
        samples = sum(value is not None for value in depths["oldest_seconds"])
        return (requests, samples) if requests >= 5 and samples else None

    before = await eventually(kept)
    await stack.replace("api", signal.SIGKILL)
    await stack.replace("worker simulated-1", signal.SIGKILL)
    after = await kept()
    assert after is not None
    assert after[0] >= before[0]
    assert after[1] >= before[1]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("depths?window=2h", "window"),
        ("depths?window=", "window"),
        ("depths?by=backend", "by"),
        ("activity?by=class", "by"),
        ("activity?window=1h&by=%00", "by"),
    ],
)
async def test_a_bad_window_is_refused_by_its_name(stack: Stack, path: str, param: str) -> None:
    headers = {"authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.root_url, headers=headers, timeout=30) as admin:
        answer = await admin.get(f"/admin/v1/{path}")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
