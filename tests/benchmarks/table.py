"""The one table that a run prints: budgets, what was measured, and the yardsticks beside it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import Machine

LOWER_IS_BETTER = frozenset({"ms", "%", "MB"})
_NUMBERS = (
    "first", "then", "measured", "from … to", "others", "yardstick", "× of it", "Starlette",
)  # fmt: skip


class Measured(msgspec.Struct, frozen=True):
    """The values of all rounds, in the line's unit."""

    values: tuple[float, ...]
    others_percent: float
    """How much of all cores other people's processes took meanwhile."""

    @property
    def median(self) -> float:
        return median(self.values)

    def less(self, amount: float) -> "Measured":
        """What remains without ``amount``."""
        return Measured(tuple(value - amount for value in self.values), self.others_percent)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line; ``row`` is the number in DESIGN.md, section 6."""

    row: int
    what: str
    unit: str
    first: float
    """The budget of the column 'first'."""
    then: float | None
    """That of the column 'then'; None where it hangs on a yardstick that was not measured."""
    measured: Measured
    yardstick: Measured | None = None
    """LiteLLM's proxy; for a claim, the same among few rows."""
    bare: Measured | None = None
    """Bare Starlette: the provider that LiteLLM stands before, asked directly."""
    problem: str | None = None
    """Why the line does not count, whatever its numbers."""
    plan: str | None = None
    """The plan of the statement, for claims."""

    def meets(self, budget: float | None) -> bool:
        """Whether a budget is kept."""
        if budget is None or self.problem is not None:
            return False
        value = self.measured.median
        return value <= budget if self.unit in LOWER_IS_BETTER else value >= budget


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as the table shows it and the JSON file keeps it."""

    machine: Machine
    lines: Sequence[Line]
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Keep it as JSON, the median of each measurement beside its rounds."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(_with_medians(self))) + b"\n")

    def show(self, console: Console) -> None:
        """Print the table, what is wrong, and the plans of claims that are too slow."""
        console.print(_table(self.lines))
        for note in (*self.machine.notes(), *self.notes):
            console.print(note, style="dim", markup=False, highlight=False)
        for line in self.lines:
            if line.problem is not None:
                console.print(f"row {line.row}, {line.what}: {line.problem}", style="bold red")
            elif line.plan is not None and not line.meets(line.first):
                console.print(f"\nrow {line.row}, {line.what}:\n{line.plan}", markup=False)


def _table(lines: Sequence[Line]) -> Table:
    table = Table(title="Carpool against its budgets (DESIGN.md, section 6)", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("what")
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            str(line.row),
            line.what,
            _quantity(line.first, line.unit),
            _quantity(line.then, line.unit),
            f"[{'green' if line.meets(line.first) else 'red'}]{_median(line.measured, line.unit)}",
            f"{_number(min(line.measured.values))} … {_number(max(line.measured.values))}",
            f"{line.measured.others_percent:.0f} %",
            _median(line.yardstick, line.unit),
            _ratio(line),
            _median(line.bare, line.unit),
        )
    return table


def _median(measured: Measured | None, unit: str) -> str:
    return _quantity(None if measured is None else measured.median, unit)


def _quantity(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_number(value)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(line: Line) -> str:
    if line.yardstick is None or not line.yardstick.median:
        return ""
    return _number(line.measured.median / line.yardstick.median)


def _with_medians(report: Report) -> object:
    """The report's plain values, with a ``median`` in each measurement."""
    plain = msgspec.to_builtins(report)
    for line, shown in zip(report.lines, plain["lines"], strict=True):
        for name in ("measured", "yardstick", "bare"):
            measured = getattr(line, name)
            if measured is not None:
                shown[name]["median"] = measured.median
    return plain
