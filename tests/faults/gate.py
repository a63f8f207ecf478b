"""Holds a stack up at a row that a test names: a fault in mid-work finds it there, however late."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from tests.stack import END_SECONDS, Stack, eventually

INGESTION = "update on batches for each row when (new.ingested > old.ingested)"
"""Of a chunk of lines that are queued."""
RESULTS = "insert on results for each row"
COMPLETION = "update on batches for each row when (new.status = 4)"
MAKE = (
    "create table if not exists gate ()",
    "create sequence if not exists gate_passed minvalue 0",
    """
    create or replace function hold_up() returns trigger language plpgsql as $$
    begin
        if nextval('gate_passed') > tg_argv[0]::bigint then
            lock table gate in share mode;
        end if;
        return new;
    end $$
    """,
)
HELD = "select pid from pg_locks where relation = 'gate'::regclass and not granted"
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Gate:
    """Some rows have passed; whoever writes another waits, with what it has locked."""

    def __init__(self, stack: Stack, passing: int) -> None:
        self._stack = stack
        self._passing = passing
        self._lock: asyncpg.Connection | None = None

    async def close(self) -> None:
        """Let as many pass as it was made for, and no more."""
        await self._count(self._passing)
        self._lock = await asyncpg.connect(self._stack.database_url)
        await self._lock.execute("begin")
        await self._lock.execute("lock table gate in exclusive mode")

    async def held(self) -> None:
        """Return when somebody is held up."""
        await eventually(lambda: self._stack.fetch(HELD), END_SECONDS)

    async def turn_away(self, passing: int) -> None:
        """Cut off those who are held up, as the death of their process would, and let more pass."""
        await self._count(passing)
        await self._stack.fetch(f"select pg_terminate_backend(pid) from ({HELD}) as held")

    async def open(self) -> None:
        """Hold nobody up any more; safe to call twice, and where Postgres was ended meanwhile."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with suppress(*AWAY):
                await lock.close()

    async def _count(self, passing: int) -> None:
        await self._stack.fetch("select setval('gate_passed', $1)", self._passing - passing)


@asynccontextmanager
async def gate(stack: Stack, event: str, *, passing: int = 0) -> AsyncIterator[Gate]:
    """Let so many rows pass until the context ends; ``event`` is what a trigger is made for."""
    for statement in MAKE:
        await stack.fetch(statement)
    table = event.split()[2]
    made = Gate(stack, passing)
    await made.close()
    try:
        await stack.fetch(
            f"create trigger held_up before {event} execute function hold_up({passing})"
        )
        yield made
    finally:
        await made.open()

        async def dropped() -> bool:
            with suppress(*AWAY):
                await stack.fetch(f"drop trigger if exists held_up on {table}")
                return True
            return False

        await eventually(dropped, END_SECONDS)
