"""Each statement of a lane finds its rows by key, whatever was known when it was prepared."""

from typing import TYPE_CHECKING

import pytest

from carpool.ids import new_id
from db.partitions import PARTITIONED
from tests.integration.lane_statements import RUN, arguments
from tests.integration.plans import Prepared, changes, explain, nodes, read, whole

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 240_000
# Rows in every state, class and time that an index is for; ids are UUIDv7 of the last hours.
FILL = """
with made as (
    select i, (
        lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 7200000 + i), 12, '0')
        || '7000' || '8' || lpad(to_hex(i), 15, '0')
    )::uuid as id
    from generate_series(1, $1::integer) as i
), stored as (
    insert into requests (
        id, team_id, key_id, class, endpoint, model, streamed, body, fingerprint, incarnation
    )
    select id, i % 50, $2, 0, 0, 'tiny', false, 'body', id, $2 from made
), answered as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts
    )
    select id, i % 50, $2, 'tiny', 0, 200, 'body', false, 1, 1 from made
)
insert into queue (
    id, team_id, key_id, class, endpoint, model, streamed, share, prefix_key, state, owner_kind,
    owner, lost, not_before, abandon_at, deadline, channel
)
select
    id, i % 50, $2, (i % 3)::smallint, 0, 'tiny', false,
    case when i % 7 = 0 then i % 10000 end, i * 7919,
    case when i % 100 = 0 then 2 when i % 100 = 1 then 3 when i % 100 = 2 then 1 else 0 end,
    case when i % 100 = 2 then 1 else 0 end,
    case when i % 100 = 2 then $2::uuid end,
    case when i % 100 = 1 then 2 + i % 3 else 0 end,
    case when i % 100 = 0 then now() + interval '1 hour' end,
    case when i % 1000 = 0 then now() + interval '1 hour' end,
    case when i % 1000 = 1 then now() + interval '1 hour' end,
    case when i % 2 = 0 then $2::uuid end
from made
"""
QUEUE_INDEXES = {
    *("queue_pkey", "queue_deadline", "queue_by_age", "queue_by_age_of_shares"),
    *("queue_by_deadline", "queue_by_prefix", "queue_by_share"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "never analyzed"])
async def test_no_statement_of_a_lane_reads_a_large_table_whole(
    bench: "Bench", analyzed: bool
) -> None:
    """Prepared while the tables were empty, and prepared when they were full."""
    before = Prepared(await bench.connection())
    await before.prepare(arguments([new_id() for _ in range(256)]))
    await bench.sql("alter table queue set (autovacuum_enabled = false)")
    connection = await bench.connection()
    await connection.execute("set enable_seqscan = on")
    await connection.execute(FILL.replace("$1", str(ROWS)).replace("$2", f"'{RUN}'::uuid"))
    assert await bench.value("select count(*) from queue") == ROWS
    if analyzed:
        await bench.sql("analyze")
    ids = [row["id"] for row in await bench.sql("select id from queue order by id limit 256")]
    after = Prepared(await bench.connection())
    await after.prepare(arguments(ids))
    values = arguments(ids)
    found = {
        (name, when): whole(await prepared.plan(name, values[name][1]))
        for name in values
        for when, prepared in (("before", before), ("after", after))
    }
    assert {key: tables for key, tables in found.items() if tables} == {}


@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "never analyzed"])
async def test_deadlines_are_found_in_their_order(bench: "Bench", analyzed: bool) -> None:
    """Where every row that waits has one: nothing is sorted, and no other index is walked."""
    statements = {
        name: values
        for name, values in arguments([new_id() for _ in range(256)]).items()
        if name in ("claim_by_deadline", "waiting by deadline")
    }
    before = Prepared(await bench.connection())
    await before.prepare(statements)
    await bench.sql("alter table queue set (autovacuum_enabled = false)")
    fill = FILL.replace("$1", str(ROWS // 4)).replace("$2", f"'{RUN}'::uuid")
    await bench.sql(fill)
    await bench.sql("update queue set deadline = now() + prefix_key % 86400 * interval '1 s'")
    if analyzed:
        await bench.sql("analyze")
    after = Prepared(await bench.connection())
    await after.prepare(statements)
    for prepared in (before, after):
        for name, (_, values) in statements.items():
            plan = await prepared.plan(name, values)
            assert set(nodes(plan, "Index Name")) & QUEUE_INDEXES == {"queue_by_deadline"}, name
            assert "Sort" not in " ".join(nodes(plan, "Node Type")), name


async def test_a_scan_of_the_whole_queue_would_be_seen(bench: "Bench") -> None:
    """The test above finds what it looks for."""
    connection = await bench.connection()
    await connection.execute("prepare s_share as select id from queue where share = $1")
    plan = await explain(connection, "s_share", ["smallint"], [1])
    assert whole(plan) == ["queue"]


async def test_no_statement_that_locks_rows_reads_partitions(bench: "Bench") -> None:
    """Postgres 18.4 may die of one that meets a row just changed by another (see `db.claim`)."""
    ids = [new_id() for _ in range(256)]
    prepared = Prepared(await bench.connection())
    await prepared.prepare(arguments(ids))
    changing = {}
    for name, (_, values) in arguments(ids).items():
        plan = await prepared.plan(name, values)
        if changes(plan):
            changing[name] = read(plan) & set(PARTITIONED)
    assert {"claim_by_age", "finish", "end", "lose"} <= set(changing)
    assert {name: tables for name, tables in changing.items() if tables} == {}


async def test_what_ends_a_claim_reaches_it_by_its_id(bench: "Bench") -> None:
    """Never by walking all that its run owns, though the planner knows of no row with an owner."""
    await bench.sql(FILL.replace("$1", "300").replace("$2", f"'{RUN}'::uuid"))
    await bench.sql("update queue set state = 0, owner_kind = 0, owner = null")
    await bench.sql("vacuum full analyze queue")
    prepared = Prepared(await bench.connection())
    names = (
        *("finish", "retry", "release", "release_strays", "rows of a provider batch released"),
        *("open responses", "unclaimed"),
    )
    statements = {name: arguments([new_id() for _ in range(256)])[name] for name in names}
    await prepared.prepare(statements)
    for name, (_, values) in statements.items():
        used = set(nodes(await prepared.plan(name, values), "Index Name"))
        assert "queue_pkey" in used, name
        assert "queue_owned" not in used, name
