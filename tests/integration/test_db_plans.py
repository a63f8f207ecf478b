"""Each statement of a lane finds its rows by key, whatever was known when it was prepared."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from db import (
    batch_jobs,
    batch_sweep,
    cache,
    delivery,
    finish,
    follow,
    gathering,
    provider_batches,
    provider_responses,
    results,
    runs,
    submit,
    sweep,
)
from db.claim import (
    BATCHES,
    CLAIM_BY_AGE,
    CLAIM_BY_AGE_OF_SHARES,
    CLAIM_BY_DEADLINE,
    CLAIM_BY_PREFIX,
    CLAIM_BY_SHARE,
    CLAIM_SUSPECTS,
    LAST_ID,
    LEFT,
    LOWEST_PREFIX,
    NO_ID,
    WAITING,
    WAITING_DEADLINES,
    WAITING_SHARES,
)
from db.end import END
from db.partitions import PARTITIONED
from db.sql import load

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 240_000
WIDE = ("queue", "requests", "results", "attempts", "deliveries", "disconnects", "reattachments")
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
RUN = UUID(int=1)
NOW = datetime.now(UTC)


Statements = dict[str, tuple[str, tuple[Any, ...]]]
QUEUE_INDEXES = {
    *("queue_pkey", "queue_deadline", "queue_by_age", "queue_by_age_of_shares"),
    *("queue_by_deadline", "queue_by_prefix", "queue_by_share"),
}


def arguments(ids: Sequence[UUID]) -> Statements:
    """The statements of a lane by name, with what a run or an API would give them."""
    one, many = [ids[0]], list(ids[:256])
    epochs = [1] * len(many)
    return {
        "claim_by_age": (
            CLAIM_BY_AGE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 1], [1, 2], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [LAST_ID, ids[99]]),
            ),
        ),
        "claim_by_age of shares": (
            CLAIM_BY_AGE_OF_SHARES,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 2], [1, 2], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [LAST_ID, ids[99]]),
            ),
        ),
        "claim_by_deadline": (
            CLAIM_BY_DEADLINE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 1], [1, 2], [NOW, NOW], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [NOW, NOW]),
            ),
        ),
        "claim_by_share": (
            CLAIM_BY_SHARE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 2], [1, 2], [500, 10_000], [0, 700]),
                *([NO_ID, ids[9]], [64, 64], RUN, 1),
            ),
        ),
        "claim_by_prefix": (
            CLAIM_BY_PREFIX,
            (
                RUN,
                1,
                ["tiny"] * 2,
                [1, 2],
                [0, -5],
                [LOWEST_PREFIX, 5],
                [NO_ID, NO_ID],
                [64, 64],
                RUN,
                1,
            ),
        ),
        "gather": (
            gathering.GATHER,
            (
                *(RUN, RUN, 1, "tiny", 0, [2, 1], [1, 2], [0, 0], [64, 64], [RUN], NOW, NOW),
                *("engine", "tiny", "24h", "", NOW, RUN, 15.0, 1000, [-1, 5], [0, 9], [0, 0]),
                *(False, False),
            ),
        ),
        "gather suspects": (
            gathering.GATHER,
            (
                *(RUN, RUN, 1, "tiny", 0, [2, 1], [1, 2], [0, 0], [64, 64], [RUN], NOW, NOW),
                *("engine", "tiny", "24h", "", NOW, RUN, 15.0, 1000, [-1, 5], [0, 9], [2, 3]),
                *(False, False),
            ),
        ),
        "survey of suspects": (gathering.SURVEY_SUSPECTS, ("tiny", 1, 1000, 2, 2, -1, 0)),
        "survey by prefix": (gathering.SURVEY_BY_PREFIX, ("tiny", 1, 1000, 0)),
        "survey by age": (gathering.SURVEY_BY_AGE, ("tiny", 1, 1000)),
        "survey by share": (gathering.SURVEY_BY_SHARE, ("tiny", 1, 1000, 2, 5, 9)),
        "members": (provider_batches.MEMBERS, (RUN,)),
        "any_member": (provider_batches.ANY_MEMBER, (RUN,)),
        "count_members": (provider_batches.COUNT_MEMBERS, (RUN,)),
        "bodies": (provider_batches.BODIES, (many,)),
        "rows of a provider batch released": (
            provider_batches.RELEASE,
            (RUN, RUN, many, epochs, False),
        ),
        "a provider batch ended": (provider_batches.ENDED, (RUN, RUN, None)),
        "unsent": (provider_responses.UNSENT, (RUN, many, 64)),
        "open responses": (provider_responses.OPEN, (RUN,)),
        "unclaimed": (provider_responses.UNCLAIMED, (RUN,)),
        "any_left": (provider_responses.ANY_LEFT, (RUN,)),
        "claim_suspects": (
            CLAIM_SUSPECTS,
            (RUN, 1, "tiny", 2, 8, RUN, 1, 0, 1, -1, 0, LAST_ID, NOW),
        ),
        "waiting": (WAITING, (["tiny", "none"], [0, 1, 2])),
        "waiting of shares": (WAITING_SHARES, (["tiny", "none"],)),
        "waiting by deadline": (WAITING_DEADLINES, (["tiny", "none"], [0, 1])),
        "waiting with little time left": (LEFT, (["tiny"], 3600.0)),
        "finish": (
            finish.FINISH,
            (
                RUN,
                many,
                epochs,
                epochs,
                epochs,
                [b""] * 256,
                epochs,
                [NOW] * 256,
                epochs,
                epochs,
                epochs,
                ["tiny"] * 256,
                "engine",
                "worker",
                *([epochs] * 5),
            ),
        ),
        "retry": (
            finish.RETRY,
            (RUN, many, epochs, [1.0] * 256, ["503"] * 256, "engine", "worker", [True] * 256),
        ),
        "release": (finish.RELEASE, (RUN, many, epochs)),
        "release_strays": (runs.RELEASE_STRAYS, (RUN, many)),
        "heartbeat": (runs.HEARTBEAT, (RUN, many, epochs, None)),
        "end": (END, (many, None, 2, 409, b"", False)),
        "end of a team": (END, (one, 1, 2, 409, b"", False)),
        "lose": (sweep.LOSE, (RUN, 2000, 2.0)),
        "dead owners": (sweep.DEAD_OWNERS, ()),
        "promote": (sweep.PROMOTE, (2000,)),
        "overdue": (sweep.OVERDUE, (2000,)),
        "forsaken": (sweep.FORSAKEN, (2000,)),
        "unserved": (sweep.UNSERVED, ()),
        "fold": (batch_sweep.FOLD, (20_000,)),
        "complete": (batch_sweep.COMPLETE, ()),
        "expire": (batch_sweep.EXPIRE, ()),
        "stopped": (batch_sweep.STOPPED, ()),
        "left": (batch_sweep.LEFT, (ids[0], ids[-1], 2000)),
        "idle": (batch_sweep.IDLE, ()),
        "batches of claims": (BATCHES, (one,)),
        "ended lines": (batch_jobs.LINES, (ids[0], ids[-1], 2000)),
        "settled": (batch_jobs.SETTLED, (ids[0], ids[-1])),
        "submit": (submit.SUBMIT, submitted()),
        "submit twins": (submit.SUBMIT_TWINS, submitted()),
        "resolve": (
            follow.RESOLVE,
            *(
                (
                    *(many, [False] * 256, epochs, [b""] * 256, ["tiny"] * 256),
                    *([epochs] * 8),
                    *("engine", "worker", RUN),
                ),
            ),
        ),
        "wake": (follow.WAKE, (many,)),
        "leaderless": (follow.LEADERLESS, (500,)),
        "forlorn": (follow.FORLORN, ()),
        "kept answer": (cache.FIND, (ids[5], 1, ids[0], 600.0)),
        "stored": (submit.STORED, (many,)),
        "reattach": (delivery.REATTACH, (ids[5], 1, ids[0])),
        "take": (delivery.TAKE, (ids[5], ids[5], ids[6], RUN)),
        "attach": (load("attach"), (ids[5], RUN)),
        "delivered": (delivery.DELIVERED, (many,)),
        "disconnected": (delivery.DISCONNECTED, (many, many, 130.0, [RUN] * 256)),
        "results": (results.BY_IDS, (many,)),
        "progress": (results.PROGRESS, (many,)),
    }


def submitted() -> tuple[Any, ...]:
    from tests.integration.db_fixtures import submission

    return submit.columns([submission() for _ in range(64)])


def scans(plan: dict[str, Any], limited: bool = False) -> Iterator[str]:
    """The relations that a plan reads whole: in their order, or in that of an index."""
    kind = plan["Node Type"]
    if kind == "Seq Scan" or ("Index" in kind and "Index Cond" not in plan and not limited):
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from scans(part, limited or kind == "Limit")


def whole(plan: dict[str, Any]) -> list[str]:
    """Those of them that may be large; a partition counts as its table."""
    found = {name.rsplit("_", 1)[0] if name[-1].isdigit() else name for name in scans(plan)}
    return sorted(found & set(WIDE))


async def explain(connection: Any, name: str, types: Sequence[str], values: Sequence[Any]) -> Any:
    """The generic plan of a prepared statement, without running it."""
    literals = await connection.fetch(
        "select " + ", ".join(f"quote_nullable(${i + 1}::{t}::text)" for i, t in enumerate(types))
        if types
        else "select 1",
        *(values if types else ()),
    )
    given = ", ".join(f"{v}::{t}" for v, t in zip(literals[0], types, strict=bool(types)))
    call = f"execute {name}({given})" if types else f"execute {name}"
    rows = await connection.fetch(f"explain (format json) {call}")
    return json.loads(rows[0][0])[0]["Plan"]


class Prepared:
    """All statements of a lane, prepared (and planned once) on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._types: dict[str, list[str]] = {}

    async def prepare(self, statements: Statements) -> None:
        for name, (sql, values) in statements.items():
            place = self._place(name)
            await self._connection.execute(f"prepare {place} as {sql}")
            self._types[name] = await self._connection.fetchval(
                "select parameter_types::text[] from pg_prepared_statements where name = $1", place
            )
            await self.plan(name, values)

    async def plan(self, name: str, values: Sequence[Any]) -> dict[str, Any]:
        plan: dict[str, Any] = await explain(
            self._connection, self._place(name), self._types[name], values
        )
        return plan

    def _place(self, name: str) -> str:
        return "s_" + name.replace(" ", "_")


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


def nodes(plan: dict[str, Any], what: str) -> Iterator[str]:
    """What the nodes of a plan say, of those that say it."""
    if what in plan:
        yield plan[what]
    for part in plan.get("Plans", ()):
        yield from nodes(part, what)


async def test_a_scan_of_the_whole_queue_would_be_seen(bench: "Bench") -> None:
    """The test above finds what it looks for."""
    connection = await bench.connection()
    await connection.execute("prepare s_share as select id from queue where share = $1")
    plan = await explain(connection, "s_share", ["smallint"], [1])
    assert whole(plan) == ["queue"]


def read(plan: dict[str, Any]) -> set[str]:
    """The tables that a plan reads; a partition counts as its table."""
    found = set().union(*(read(part) for part in plan.get("Plans", ())))
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        found.add(plan["Relation Name"].rsplit("_", 1)[0])
    return found


def changes(plan: dict[str, Any]) -> bool:
    """Whether a plan locks or changes rows that are there."""
    own = plan["Node Type"] == "LockRows" or plan.get("Operation") in ("Update", "Delete")
    return own or any(changes(part) for part in plan.get("Plans", ()))


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
