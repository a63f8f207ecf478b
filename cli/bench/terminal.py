"""The report in a terminal; plain lines where there is none."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.bench.report import Report, error_rows, rows
from cli.bulk.faults import printable

Row = tuple[str, Sequence[str]]


def show(report: Report) -> None:
    """Print it to stdout."""
    console = Console(highlight=False)
    models = report.setup.models
    tables = {"": rows(report.summaries), "Errors": error_rows(report.summaries)}
    for title, found in tables.items():
        if not found:
            continue
        if console.is_terminal:
            console.print(_table(title, models, found))
        else:
            sys.stdout.write(plain((title or "model", models), found))
    for line in (*(verdict.sentence for verdict in report.verdicts), *report.notes):
        console.print(printable(line), markup=False, soft_wrap=True)


def plain(header: Row, found: Sequence[Row]) -> str:
    """Aligned columns, two blanks apart."""
    cells = [[printable(name), *map(printable, values)] for name, values in (header, *found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
    return "".join(f"{line}\n" for line in lines)


def _table(title: str, models: Sequence[str], found: Sequence[Row]) -> Table:
    table = Table("", title=Text(title) if title else None, title_justify="left")
    for model in models:
        table.add_column(Text(printable(model)), justify="right")
    for name, values in found:
        table.add_row(Text(printable(name)), *(Text(value) for value in values))
    return table
