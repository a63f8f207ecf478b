"""A lane that explains what it is given, with the plan that a real lane uses."""

from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from db.database import LANE_SETTINGS, Lane


class ExplainedLane(Lane):
    """Runs each statement by its generic plan, keeps the plan's text, and rolls it back.

    One without parameters is run as it is.
    """

    def __init__(self, database_url: str) -> None:
        super().__init__(make_url(database_url), 60)
        self.plan = ""

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        if not arguments:
            return await super().fetch(sql)
        connection = await asyncpg.connect(self._dsn, server_settings=LANE_SETTINGS)
        try:
            await connection.execute(f"prepare statement as {sql}")
            values = ", ".join(_literal(argument) for argument in arguments)
            await connection.execute("begin")
            rows = await connection.fetch(
                f"explain (analyze, buffers, wal) execute statement ({values})"
            )
            await connection.execute("rollback")
        finally:
            await connection.close()
        self.plan = "\n".join(_executed([row[0] for row in rows]))
        return []


def _executed(plan: Sequence[str]) -> Iterator[str]:
    """Without the nodes that were never executed: the partitions where nothing was looked for."""
    skipped = None
    for line in plan:
        indent = len(line) - len(line.lstrip())
        if skipped is not None and indent > skipped:
            continue
        skipped = indent if line.endswith("(never executed)") else None
        if skipped is None:
            yield line


def _literal(value: object) -> str:
    """An SQL literal of a text, a number, an id, or an array of them; our own values alone."""
    if isinstance(value, list):
        return f"'{{{','.join(_plain(item) for item in value)}}}'"
    return f"'{_plain(value)}'"


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, int) else str(value)
