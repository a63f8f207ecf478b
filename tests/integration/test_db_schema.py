"""The schema is what the code expects, is made once, and keeps each day's rows in its partition."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

import db
from carpool.ids import id_at
from carpool.states import OwnerKind, QueueState, ServiceClass
from db.claim import (
    CLAIM_BY_AGE,
    CLAIM_BY_DEADLINE,
    CLAIM_BY_PREFIX,
    CLAIM_BY_SHARE,
    CLAIM_SUSPECTS,
    Claim,
)
from db.database import Database, DatabaseAway
from db.delivery import TAKE, store_deliveries, store_disconnects
from db.finish import Failure
from db.migrate import migrate
from db.partitions import PARTITIONED, drop_partitions, ensure_partitions
from db.sweep import PROMOTE
from tests.stack import eventually

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

NOON = datetime(2031, 5, 17, 12, tzinfo=UTC)
DAY = timedelta(days=1)
INSTANT = timedelta(milliseconds=1)
NOT_OF_THE_QUEUE = ("upstream", "body", "stopped", "traceparent", "followers")
_TEMPLATE = re.compile(r"\{[a-z_]+\}")
_STATEMENT = re.compile(r"\s*(--.*\n)*\s*(with|select|insert|update|delete)\b", re.IGNORECASE)


def statements() -> Iterator[tuple[str, str]]:
    """Each statement that a module of `db` holds by name, in the driver's form."""
    for module in pkgutil.iter_modules(db.__path__, "db."):
        for name, value in vars(importlib.import_module(module.name)).items():
            held = value.items() if isinstance(value, dict) else [("", value)]
            for which, sql in held:
                # What is to be filled in is no statement yet.
                if isinstance(sql, str) and _STATEMENT.match(sql) and not _TEMPLATE.search(sql):
                    yield f"{module.name}.{name}{which}", re.sub(r"(?<!:):[a-z]\w*", "null", sql)


@pytest.fixture
async def days(bench: "Bench") -> list[str]:
    """The partitions of two days, beside those of the present."""
    return await ensure_partitions(bench.database, NOON, days=1)


async def test_every_statement_can_be_prepared(bench: "Bench") -> None:
    connection = await bench.connection()
    found = dict(statements())
    assert len(found) > 30
    for name, sql in found.items():
        try:
            await connection.prepare(sql)
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize(
    "sql", [CLAIM_BY_AGE, CLAIM_BY_DEADLINE, CLAIM_BY_PREFIX, CLAIM_BY_SHARE, CLAIM_SUSPECTS]
)
async def test_a_claim_returns_what_it_is_read_into(bench: "Bench", sql: str) -> None:
    prepared = await (await bench.connection()).prepare(sql)
    names = [attribute.name for attribute in prepared.get_attributes()]
    assert [{"class": "service_class"}.get(name, name) for name in names] == [
        *(field for field in Claim.__struct_fields__ if field not in NOT_OF_THE_QUEUE),
        "followed",  # whether its followers are to be read
    ]


async def test_the_states_of_the_code_are_those_of_the_indexes(bench: "Bench") -> None:
    rows = await bench.sql("select indexname, indexdef from pg_indexes where tablename = 'queue'")
    conditions = {row["indexname"]: row["indexdef"].partition(" WHERE ")[2] for row in rows}
    assert f"state = {QueueState.WAITING:d}" in conditions["queue_by_age"]
    assert f"state = {QueueState.WAITING:d}" in conditions["queue_by_share"]
    assert f"state = {QueueState.WAITING:d}" in conditions["queue_by_deadline"]
    assert f"class = {ServiceClass.BATCH:d}" in conditions["queue_by_prefix"]
    assert f"state = {QueueState.SUSPECT:d}" in conditions["queue_suspects"]
    assert f"state = {QueueState.BACKING_OFF:d}" in conditions["queue_backing_off"]
    assert (QueueState.CLAIMED, OwnerKind.RUN) == (1, 1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of those that make partitions at once leaves one for later."""
    monkeypatch.setattr("db.partitions.LOCK_MILLISECONDS", 60_000)


@pytest.mark.usefixtures("patient")
async def test_migrations_from_nothing_at_once_and_again_make_one_schema(
    empty_database: str,
) -> None:
    url = empty_database
    await asyncio.gather(*(asyncio.to_thread(migrate, url, partition_days=1) for _ in range(3)))
    first = await described(url)
    await asyncio.to_thread(migrate, url, partition_days=1)
    assert await described(url) == first
    assert {"queue", "requests_default", "alembic_version"} <= {name for name, _ in first}


async def described(url: str) -> set[tuple[str, str]]:
    database = Database(url, pool_size=1)
    try:
        rows = await database.fetch(
            "select table_name, column_name || ' ' || data_type as definition "
            "from information_schema.columns where table_schema = 'public'"
        )
        return {(row["table_name"], row["definition"]) for row in rows}
    finally:
        await database.close()


async def test_partitions_are_made_once(bench: "Bench", days: list[str]) -> None:
    names = {f"{table}_203105{day}" for table in PARTITIONED for day in (17, 18)}
    assert set(days) == names
    assert await ensure_partitions(bench.database, NOON, days=1) == []
    later = await ensure_partitions(bench.database, NOON + DAY, days=1)
    assert set(later) == {f"{table}_20310519" for table in PARTITIONED}


@pytest.mark.usefixtures("patient")
async def test_each_of_the_partitions_made_at_once_is_made_by_one(bench: "Bench") -> None:
    made = await asyncio.gather(
        *(ensure_partitions(bench.database, NOON, days=2) for _ in range(3))
    )
    expected = [f"{table}_203105{day}" for table in PARTITIONED for day in (17, 18, 19)]
    assert sorted(name for names in made for name in names) == sorted(expected)


@pytest.mark.usefixtures("days")
async def test_ids_at_the_borders_of_a_day_lie_in_its_partition(bench: "Bench") -> None:
    midnight = datetime(2031, 5, 18, tzinfo=UTC)
    expected = {
        id_at(midnight - INSTANT): "requests_20310517",
        UUID(int=id_at(midnight).int - 1): "requests_20310517",
        id_at(midnight): "requests_20310518",
        UUID(int=id_at(midnight).int + 1): "requests_20310518",
        id_at(midnight + DAY - INSTANT): "requests_20310518",
        id_at(midnight + DAY): "requests_default",
    }
    for identifier in expected:
        await bench.fill(1, id=identifier)
    rows = await bench.sql("select id, tableoid::regclass::text as place from requests")
    assert {row["id"]: row["place"] for row in rows} == expected


@pytest.mark.usefixtures("days")
async def test_every_wide_table_keeps_a_requests_rows_of_a_day_together(bench: "Bench") -> None:
    identifier = id_at(NOON)
    channel = UUID(int=3)
    await bench.fill(1, id=identifier, incarnation=channel, channel=channel)
    run = await bench.run()
    await run.claim(1)
    failure = Failure(id=identifier, epoch=1, delay_seconds=0, error="503")
    await run.finisher.retry(run.lane, [failure])
    await bench.sql(PROMOTE, 10)
    await run.finish(await run.claim(1))
    await store_disconnects(
        run.lane, [(identifier, identifier)], incarnation=channel, grace_seconds=1
    )
    await bench.sql(TAKE, identifier, identifier, identifier, channel)
    await store_deliveries(run.lane, [identifier], False)
    for table in PARTITIONED:
        place = await bench.value(f"select tableoid::regclass::text from {table}")
        assert place == f"{table}_20310517"


async def test_a_day_whose_rows_came_before_its_partition_stays_in_the_default_one(
    bench: "Bench",
) -> None:
    await bench.fill(1, id=id_at(NOON))
    made = await ensure_partitions(bench.database, NOON, days=1)
    assert "requests_20310517" not in made
    assert {"requests_20310518", "results_20310517"} <= set(made)
    await bench.fill(1, id=id_at(NOON + INSTANT))
    places = await bench.sql("select distinct tableoid::regclass::text as place from requests")
    assert [row["place"] for row in places] == ["requests_default"]


@pytest.mark.usefixtures("days")
async def test_a_day_is_dropped_when_nothing_unfinished_lies_in_it_or_before_it(
    bench: "Bench",
) -> None:
    future = NOON + 9 * DAY
    [waiting] = await bench.fill(1, id=id_at(NOON + DAY))
    dropped = await drop_partitions(bench.database, future)
    assert {name for name in dropped if name.endswith("0517")} == {
        f"{table}_20310517" for table in PARTITIONED
    }
    assert not [name for name in dropped if name.endswith("0518")]
    await bench.sql("delete from queue where id = $1", waiting)
    await bench.sql(
        "insert into batches (id, team_id, key_id, endpoint, completion_window, input_file_id,"
        " fingerprint, expires_at) values ($1, 1, $1, 0, '24h', '', $1, now())",
        waiting,
    )
    assert "requests_20310518" not in await drop_partitions(bench.database, future)
    await bench.sql("update batches set status = 4")
    assert "requests_20310518" in await drop_partitions(bench.database, future)
    assert await bench.value("select count(*) from requests") == 0


@pytest.mark.usefixtures("days")
async def test_a_drop_does_not_make_the_traffic_wait(bench: "Bench") -> None:
    reading = await bench.open_lane()
    await reading.fetch("select count(*) from requests")
    with pytest.raises(Exception, match="lock timeout"):
        await drop_partitions(bench.database, NOON + 9 * DAY)
    await reading.commit()
    assert "requests_20310517" in await drop_partitions(bench.database, NOON + 9 * DAY)


async def test_a_partition_made_under_load_loses_nothing(bench: "Bench") -> None:
    """It takes locks that the traffic waits for; both end, and all is stored."""
    made = asyncio.create_task(ensure_partitions(bench.database, NOON, days=3))
    done = 0
    run = await bench.run()
    while not made.done() or done < 200:
        await bench.fill(20)
        done += len(await run.finish(await run.claim(20)))
    await made
    assert await bench.value("select count(*) from results") == done


async def test_a_pool_says_that_the_database_is_away_when_its_connection_is_cut(
    bench: "Bench",
) -> None:
    async def cut_in(context: Any, statement: Any) -> None:
        async with context as connection:
            running = asyncio.create_task(statement(connection))
            pid = await sleeping(bench)
            await bench.sql("select pg_terminate_backend($1)", pid)
            await running

    for context, statement in (
        (bench.database.connect(), lambda c: c.execute(text("select pg_sleep(60)"))),
        (bench.database.transaction(), lambda c: c.fetch("select pg_sleep(60)")),
    ):
        with pytest.raises(DatabaseAway):
            await cut_in(context, statement)
    assert await bench.database.fetch("select 1 as one")


async def sleeping(bench: "Bench") -> int:
    """The backend that sleeps, once there is one."""
    query = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
    rows = await eventually(lambda: bench.sql(query))
    return int(rows[0]["pid"])
