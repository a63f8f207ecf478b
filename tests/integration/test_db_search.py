"""Whatever is looked for, and whoever asks why it waits, few rows are read of the many."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.reasons import MOST_AHEAD
from carpool.states import RequestStatus
from db.database import Database
from db.reasons import group_reasons, reason_of
from db.search import LOOKED_AT, Wanted, search
from db.situation import read_situation
from db.timeline import timeline
from db.view import page, views

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

ROWS = 200_000
TEAMS = 50
# The older half has ended, but for a few that run; the newer half waits in every state. `rare` is
# one in a thousand; of the results one in 50,000 failed.
FILL = f"""
with made as (
    select
        i, case when i % 1000 = 0 then 'rare' else 'tiny' end as model, i % {TEAMS} + 1 as team_id,
        (i / {TEAMS}) % 3 as class,
        case
            when i <= {ROWS // 2} then null
            when i <= {ROWS // 2} + 300 then 1
            when i % 97 = 0 then 2
            when i % 101 = 0 then 4
            when i % 997 = 0 then 3
            else 0
        end as state,
        (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - 3600000 + i), 12, '0')
        || '7000' || '8' || lpad(to_hex(i), 15, '0'))::uuid as id
    from generate_series(1, {ROWS}) as i
), stored as (
    insert into requests (
        id, team_id, key_id, class, endpoint, model, streamed, body, fingerprint
    )
    select id, team_id, id, class, 0, model, false, 'body', id from made
), answered as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts,
        started_at
    )
    select
        id, team_id, id, model, case when i % 50000 = 0 then 1 else 0 end, 200, '{{}}', false, 1,
        1, now()
    from made where state is null
)
insert into queue (
    id, key_id, prefix_key, team_id, class, endpoint, state, streamed, model, share, lost,
    not_before, leader, owner, owner_kind, claimed_at
)
select
    id, id, hashint8(i), team_id, class, 0, state, false, model,
    case when i % 7 = 0 then i % 10000 end, case when state = 3 then 2 else 0 end,
    case when state = 2 then now() + interval '1 minute' end, case when state = 4 then id end,
    case when state = 1 then id end, case when state = 1 then 1 else 0 end,
    case when state = 1 then now() end
from made where state is not null
"""
WHERE = {
    None: "true",
    RequestStatus.QUEUED: "q.state <> 1",
    RequestStatus.IN_PROGRESS: "q.state = 1",
    RequestStatus.COMPLETED: "s.outcome = 0",
    RequestStatus.FAILED: "s.outcome = 1",
    RequestStatus.CANCELLED: "s.outcome = 2",
    RequestStatus.EXPIRED: "s.outcome = 3",
}
ALL = """
select r.id from requests r left join queue q on q.id = r.id left join results s on s.id = r.id
where {where} and ($1::integer is null or r.team_id = $1) and ($2::text is null or r.model = $2)
    and r.id < $3
order by r.id desc limit $4
"""
LAST = UUID(int=2**128 - 1)
NOBODY = TEAMS + 1
ASIDE = 5_000
"""About what backs off, follows, is suspect or owned in these tables."""


class Counted:
    """A driver that counts how many rows the plans of its statements look at."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.rows = 0.0

    async def fetch(self, sql: str, *values: Any) -> Any:
        await self._count(sql, values)
        return await self._driver.fetch(sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        await self._count(sql, values)
        return await self._driver.fetchval(sql, *values)

    async def _count(self, sql: str, values: Any) -> None:
        [explained] = await self._driver.fetchval(
            f"explain (analyze, timing off, format json) {sql}", *values
        )
        self.rows += sum(looked_at(explained["Plan"]))


class CountingDatabase(Database):
    """The same database; what its last transaction by index looked at is kept."""

    looked_at = 0.0

    @asynccontextmanager
    async def by_index(self) -> AsyncIterator[Any]:
        async with super().by_index() as driver:
            counted = Counted(driver)
            yield counted
            self.looked_at = counted.rows


def looked_at(plan: dict[str, Any]) -> Iterator[float]:
    """The rows that each scan of a plan took from its table, those that it passed over too."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"]:
        removed = plan.get("Rows Removed by Filter", 0)
        yield (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from looked_at(part)


@pytest.fixture(params=[True, False], ids=["analyzed", "never analyzed"])
async def full(bench: "Bench", request: pytest.FixtureRequest) -> AsyncIterator[CountingDatabase]:
    """Tables of many rows, of which the planner knows or does not."""
    await bench.run()
    await bench.sql("insert into teams (name) select 't' || i from generate_series(1, 50) i")
    for table in ("queue", "requests_default", "results_default"):
        await bench.sql(f"alter table {table} set (autovacuum_enabled = false)")
    await bench.sql(FILL)
    if request.param:
        await bench.sql("analyze")
    database = CountingDatabase(bench.url, pool_size=2)
    yield database
    await database.close()


@pytest.mark.timeout(300)
async def test_pages_hold_what_is_looked_for_and_read_little(
    bench: "Bench", full: CountingDatabase
) -> None:
    for status in WHERE:
        for team_id in (None, 1, 3):
            for model in (None, "rare"):
                wanted = Wanted(status=status, team_id=team_id, model=model)
                before: UUID | None = None
                for _ in range(2):
                    page = await search(full, wanted, before=before, limit=20)
                    assert full.looked_at < 2 * LOOKED_AT + ASIDE, (wanted, full.looked_at)
                    query = ALL.format(where=WHERE[status])
                    rows = await bench.sql(query, team_id, model, before or LAST, 20)
                    expected = [row["id"] for row in rows]
                    # A page may stop early, and then says where to go on.
                    assert list(page.ids) == expected[: len(page.ids)], wanted
                    seen = await views(full, page.ids)
                    assert [one.id for one in seen] == list(page.ids)
                    assert {one.body for one in seen} <= {None}
                    if len(page.ids) < len(expected):
                        assert page.before is not None
                        assert page.before > expected[len(page.ids)]
                    before = page.before
                    if before is None:
                        break


@pytest.mark.timeout(300)
async def test_rare_rows_are_all_found_page_by_page(bench: "Bench", full: CountingDatabase) -> None:
    """Over pages that are short, and some that are empty."""
    for status, number in ((RequestStatus.COMPLETED, 98), (RequestStatus.FAILED, 2)):
        pages: list[Sequence[UUID]] = []
        before: UUID | None = None
        while not pages or before is not None:
            page = await search(full, Wanted(status=status, model="rare"), before=before, limit=50)
            pages.append(page.ids)
            before = page.before
        found = [identifier for ids in pages for identifier in ids]
        rows = await bench.sql(ALL.format(where=WHERE[status]), None, "rare", LAST, 1000)
        assert found == [row["id"] for row in rows]
        assert len(found) == number
        assert len(pages) > ROWS // 2 / LOOKED_AT
        assert min(len(ids) for ids in pages) == 0


@pytest.mark.timeout(300)
async def test_a_teams_own_list_of_the_queue_is_exact_and_reads_little(
    bench: "Bench", full: CountingDatabase
) -> None:
    """Whether many of the rows are the team's, few or none."""
    for status in (RequestStatus.QUEUED, RequestStatus.IN_PROGRESS):
        for team_id in (1, 3, NOBODY):
            for model in (None, "rare"):
                after: UUID | None = None
                for _ in range(3):
                    full.looked_at = 0.0
                    found = await page(
                        full, team_id=team_id, status=status, model=model, after=after, limit=20
                    )
                    assert 0 < full.looked_at < ASIDE, (status, team_id, model)
                    query = ALL.format(where=WHERE[status])
                    rows = await bench.sql(query, team_id, model, after or LAST, 20)
                    assert [one.id for one in found] == [row["id"] for row in rows]
                    assert {one.status for one in found} <= {status}
                    if len(found) < 20:
                        break
                    after = found[-1].id


@pytest.mark.timeout(300)
async def test_the_reason_of_each_that_waits_reads_little(
    bench: "Bench", full: CountingDatabase
) -> None:
    situation = await read_situation(full)
    for condition in (
        *(f"state = 0 and share is null and class = {n} order by id desc" for n in range(3)),
        "state = 0 and share is null and class = 0 order by id",
        "state = 0 and share is not null and class = 2 order by id desc",
        *(f"state = {n}" for n in (2, 3, 4)),
    ):
        identifier = await bench.value(f"select id from queue where {condition} limit 1")
        assert await reason_of(full, identifier, situation=situation) is not None
        assert full.looked_at < 3 * MOST_AHEAD, (condition, full.looked_at)
        await timeline(full, identifier)
        assert full.looked_at < 100
    keys = [("tiny", place, team) for place in range(3) for team in range(1, TEAMS + 10)]
    found = await group_reasons(full, keys, situation=situation)
    assert {key for key in keys if key[2] <= TEAMS} == found.keys()
    assert full.looked_at < 3 * MOST_AHEAD
