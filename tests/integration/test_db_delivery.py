"""A retry finds the undelivered request that it repeats, one to one, however many retry at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from db.database import Database, Fetches
from db.delivery import (
    REATTACH,
    TAKE,
    attach,
    attach_all,
    listen_in,
    store_deliveries,
    store_disconnects,
    take_over,
)
from db.idempotency import store_once
from db.processes import Process
from db.submit import store_submission

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench

pytest_plugins = ("tests.integration.db_fixtures",)

FINGERPRINT = UUID(int=77)
GRACE_SECONDS = 130.0


class Api:
    """A living API process that took requests in."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self.id = new_id()

    async def enter(self) -> "Api":
        await Process(self.id, "api", None).enter(self._bench.database)
        return self

    async def take_in(self, number: int) -> list[UUID]:
        return await self._bench.fill(
            number, fingerprint=FINGERPRINT, incarnation=self.id, channel=self.id
        )

    async def lose(self, *requests: UUID, connections: tuple[UUID, ...] = ()) -> None:
        """Let connections end; each is named by its request unless it was a retry's."""
        await store_disconnects(
            self._bench.lane(),
            list(zip(connections or requests, requests, strict=True)),
            incarnation=self.id,
            grace_seconds=GRACE_SECONDS,
        )

    async def retry(
        self, team_id: int = 1, *, through: Fetches | None = None
    ) -> tuple[UUID, UUID] | None:
        return await take_over(
            through or self._bench.database,
            team_id=team_id,
            fingerprint=FINGERPRINT,
            incarnation=self.id,
        )


@pytest.fixture
async def api(bench: "Bench") -> Api:
    return await Api(bench).enter()


@pytest.mark.parametrize(("retries", "undelivered"), [(10, 3), (3, 10), (40, 40)])
async def test_retries_at_once_take_over_one_request_each_and_none_twice(
    api: Api, retries: int, undelivered: int
) -> None:
    ids = await api.take_in(undelivered)
    await api.lose(*ids)
    found = await asyncio.gather(*(api.retry() for _ in range(retries)))
    taken = [pair[0] for pair in found if pair is not None]
    assert len(taken) == min(retries, undelivered)
    assert set(taken) <= set(ids)
    assert len(set(taken)) == len(taken)


async def test_many_retries_at_once_seldom_try_the_same_one(bench: "Bench", api: Api) -> None:
    """All have looked before the first of them takes one."""
    number = 40
    await api.lose(*await api.take_in(number))
    all_have_looked = asyncio.Barrier(number)
    tries = 0

    class Together:
        async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
            nonlocal tries
            rows = await bench.database.fetch(sql, *arguments)
            if sql == REATTACH and not tries:
                await all_have_looked.wait()
            tries += sql == TAKE
            return rows

    found = await asyncio.gather(*(api.retry(through=Together()) for _ in range(number)))
    assert len({pair[0] for pair in found if pair is not None}) == number
    assert tries < number**2 / 3  # in one order it is half of the square, in many about a twelfth


async def test_of_two_retries_of_one_connection_the_second_finds_it_taken(
    bench: "Bench", api: Api
) -> None:
    """Both have seen the same candidate; the insert of the first holds the second up."""
    [request] = await api.take_in(1)
    await api.lose(request)
    one, two = await bench.open_lane(), await bench.open_lane()
    first = await take_over(one, team_id=1, fingerprint=FINGERPRINT, incarnation=api.id)
    assert first is not None
    second = asyncio.create_task(two.fetch(TAKE, request, request, new_id(), api.id))
    await bench.until_blocked(two.pid)
    await one.commit()
    assert await second == []
    await two.commit()


async def test_only_an_undelivered_request_whose_connection_has_ended_is_taken_over(
    bench: "Bench", api: Api
) -> None:
    waiting, delivered, gone = await api.take_in(3)
    await store_deliveries(bench.lane(), [delivered], False)
    await api.lose(delivered, gone)
    assert await api.retry(team_id=2) is None
    found = await api.retry()
    assert found is not None
    assert found[0] == gone
    assert await api.retry() is None
    assert (await bench.row(waiting))["channel"] == api.id


async def test_a_retry_that_comes_before_the_end_of_its_last_connection_is_noted(
    bench: "Bench", api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.delivery.NOTICE_SECONDS", 60.0)
    [request] = await api.take_in(1)
    looks: asyncio.Queue[int] = asyncio.Queue()

    class Seen:
        """Tells of each look for what is to be taken over."""

        async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
            rows = await bench.database.fetch(sql, *arguments)
            if sql == REATTACH:
                looks.put_nowait(len(rows))
            return rows

    retry = asyncio.create_task(
        take_over(Seen(), team_id=1, fingerprint=FINGERPRINT, incarnation=api.id)
    )
    assert [await looks.get() for _ in range(2)] == [1, 1]
    assert not retry.done()
    await api.lose(request)
    found = await retry
    assert found is not None
    assert found[0] == request


async def test_a_retry_that_is_lost_too_is_followed_by_the_next_one(
    bench: "Bench", api: Api
) -> None:
    [request] = await api.take_in(1)
    connection = request
    for _ in range(3):
        await api.lose(request, connections=(connection,))
        found = await api.retry()
        assert found is not None
        assert found[0] == request
        assert await api.retry() is None
        assert await attach(bench.database, request, api.id)
        connection = found[1]


async def test_requests_of_a_dead_process_are_taken_over_finished_or_not(bench: "Bench") -> None:
    dead, living = await Api(bench).enter(), await Api(bench).enter()
    ids = await dead.take_in(2)
    run = await bench.run()
    await run.finish(await run.claim(1))
    assert await living.retry() is None
    await bench.sql("update processes set ended_at = now() where id = $1", dead.id)
    found = [await living.retry() for _ in range(3)]
    assert [pair and pair[0] for pair in found] == [*ids, None]
    assert await attach(bench.database, ids[0], living.id) is False
    assert await attach(bench.database, ids[1], living.id) is True


async def test_the_end_of_a_connection_begins_the_grace_and_a_re_attach_ends_it(
    bench: "Bench", api: Api
) -> None:
    [request] = await api.take_in(1)
    await api.lose(request)
    row = await bench.row(request)
    assert row["channel"] is None
    assert row["abandon_at"] is not None
    await attach(bench.database, request, api.id)
    row = await bench.row(request)
    assert (row["channel"], row["abandon_at"]) == (api.id, None)


async def test_the_late_word_of_a_lost_connection_harms_no_client_that_is_elsewhere(
    bench: "Bench", api: Api
) -> None:
    """The client has come back through another process before its first says that it has gone."""
    other = await Api(bench).enter()
    [request] = await api.take_in(1)
    attaching, losing = await bench.open_lane(), await bench.open_lane()
    await attach(attaching, request, other.id)
    lost = asyncio.create_task(
        store_disconnects(
            losing, [(request, request)], incarnation=api.id, grace_seconds=GRACE_SECONDS
        )
    )
    await bench.until_blocked(losing.pid)
    await attaching.commit()
    await lost
    await losing.commit()
    row = await bench.row(request)
    assert (row["channel"], row["abandon_at"]) == (other.id, None)


async def test_who_listens_in_takes_no_channel_from_who_waits(bench: "Bench", api: Api) -> None:
    [waited] = await api.take_in(1)
    [unheard] = await bench.fill(1)
    watcher = new_id()
    for request in (waited, unheard):
        await listen_in(bench.database, request, watcher)
    assert (await bench.row(waited))["channel"] == api.id
    assert (await bench.row(unheard))["channel"] == watcher


async def test_a_process_that_was_taken_for_dead_has_its_channel_again(
    bench: "Bench", api: Api
) -> None:
    ids = await api.take_in(2)
    await bench.sql("update queue set channel = null, abandon_at = now()")
    await attach_all(bench.lane(), ids, api.id)
    rows = [await bench.row(request) for request in ids]
    assert {(row["channel"], row["abandon_at"]) for row in rows} == {(api.id, None)}


async def test_one_idempotency_key_stores_one_request_however_many_send_it_at_once(
    bench: "Bench",
) -> None:
    from tests.integration.db_fixtures import submission

    async def store(team_id: int) -> UUID:
        item = submission(team_id=team_id)
        first = await store_once(
            bench.database,
            partial(store_submission, item),
            item.id,
            team_id=team_id,
            key=UUID(int=5),
            fingerprint=FINGERPRINT,
        )
        return first.identifier

    firsts = await asyncio.gather(*(store(1) for _ in range(20)))
    assert len(set(firsts)) == 1
    assert [row["id"] for row in await bench.sql("select id from queue")] == [firsts[0]]
    assert await store(2) != firsts[0]


async def test_a_key_that_is_freed_just_after_it_was_met_is_taken(bench: "Bench") -> None:
    """As by the refusal of the request that had it."""
    from tests.integration.db_fixtures import submission

    [first, second] = [submission(team_id=1), submission(team_id=1)]
    key: dict[str, Any] = {"team_id": 1, "key": UUID(int=5), "fingerprint": FINGERPRINT}
    await store_once(bench.database, partial(store_submission, first), first.id, **key)

    class Freed:
        """A driver that looks for the key when it is gone."""

        def __init__(self, driver: Any) -> None:
            self.fetch = driver.fetch
            self._driver = driver

        async def fetchrow(self, sql: str, *arguments: object) -> Any:
            await bench.sql("delete from idempotency_keys")
            return await self._driver.fetchrow(sql, *arguments)

    class Freeing(Database):
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[Any]:
            async with super().transaction() as driver:
                yield Freed(driver)

    database = Freeing(bench.url)
    try:
        found = await store_once(database, partial(store_submission, second), second.id, **key)
    finally:
        await database.close()
    assert found.identifier == second.id
    assert await bench.row(second.id) is not None
