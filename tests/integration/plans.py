"""Plans of prepared statements, and what they read."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

WIDE = ("queue", "requests", "results", "attempts", "deliveries", "disconnects", "reattachments")
Statements = dict[str, tuple[str, tuple[Any, ...]]]


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


def nodes(plan: dict[str, Any], what: str) -> Iterator[str]:
    """What the nodes of a plan say, of those that say it."""
    if what in plan:
        yield plan[what]
    for part in plan.get("Plans", ()):
        yield from nodes(part, what)


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
