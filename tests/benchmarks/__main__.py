"""`python -m tests.benchmarks`: measure, print one table, and keep it as JSON where asked."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks.batch import measure_batch
from tests.benchmarks.budgets import (
    ADDED_ROW,
    BATCH_ROWS,
    BUDGETS,
    CLAIM_ROW,
    IDLE_ROW,
    SERVED_ROWS,
)
from tests.benchmarks.chat import Target
from tests.benchmarks.claims import measure_claims
from tests.benchmarks.cpu import Bystanders
from tests.benchmarks.idle import idle_percent
from tests.benchmarks.load import wrk
from tests.benchmarks.machine import Machine
from tests.benchmarks.served import MEASURES, Pace, Served, check
from tests.benchmarks.stack import Carpool, carpool_up, fake_provider, litellm_proxy
from tests.benchmarks.stored import completed_results
from tests.benchmarks.table import Line, Measured, Report
from tests.benchmarks.yardstick import install_litellm

TABLE_WIDTH = 150


def main() -> int:
    """Run what is asked for; 1 where a line does not count."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every server is ended
    pace = Pace(rounds=options.rounds, seconds=options.seconds)
    served_rows = [row for row in SERVED_ROWS if row in options.rows]
    if served_rows:
        wrk()
    notes = ["others: what other people's processes took of all cores in the meantime"]
    if served_rows and options.litellm:
        notes.append(f"yardstick of rows 1 to 4: LiteLLM's proxy {install_litellm()}, one process")
    machine = Machine.look()
    lines = []
    if served_rows or IDLE_ROW in options.rows:
        lines += _measure_stack(options.rows, served_rows, pace, litellm=options.litellm)
    if wanted := [row for row in BATCH_ROWS if row in options.rows]:
        _say("rows 5 and 6: a batch of 50,000 lines")
        with carpool_up() as carpool:
            batch = measure_batch(carpool, rounds=options.rounds)
        measured = {5: batch.rate, 6: batch.grown}
        lines += [_line(row, measured[row], batch.problem) for row in wanted]
        notes += batch.notes
    if CLAIM_ROW in options.rows:
        lines += asyncio.run(measure_claims())
        notes.append("yardstick of row 7: the same claim among 10,000 rows")
    report = Report(machine=machine, lines=sorted(lines, key=lambda line: line.row), notes=notes)
    report.show(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
    if options.json is not None:
        report.write(options.json)
    return 1 if any(line.problem for line in lines) else 0


def _measure_stack(
    rows: frozenset[int], served_rows: list[int], pace: Pace, *, litellm: bool
) -> list[Line]:
    """Rows 9 and 1 to 4, one server at a time."""
    lines = []
    with carpool_up() as carpool:
        check(carpool.target)
        if IDLE_ROW in rows:
            _say("row 9: Carpool does nothing")
            others = Bystanders()
            idle = idle_percent(carpool.process)
            lines.append(_line(IDLE_ROW, Measured((idle,), others.percent())))
        served = {row: _stored(carpool, row, pace) for row in served_rows}
    if not served:
        return lines
    with fake_provider() as provider:
        check(provider)
        bare = _measure("bare Starlette", provider, served_rows, pace)
        proxied = _measure_litellm(provider, bare, pace) if litellm else {}
    for row, own in served.items():
        yardstick = proxied.get(row)
        lines.append(_line(row, own.measured, own.problem, yardstick, bare[row].measured))
    return lines


def _stored(carpool: Carpool, row: int, pace: Pace) -> Served:
    """A row for Carpool, where every answer that was given must also be stored."""
    before = asyncio.run(completed_results(carpool.database_url))
    served = _measure("Carpool", carpool.target, [row], pace)[row]
    stored = asyncio.run(completed_results(carpool.database_url)) - before
    if served.problem is not None or stored >= served.answered:
        return served
    problem = f"{served.answered} requests were answered, {stored} results are stored"
    return Served(measured=served.measured, answered=served.answered, problem=problem)


def _measure_litellm(provider: Target, bare: dict[int, Served], pace: Pace) -> dict[int, Measured]:
    """LiteLLM's part of each row; of row 3, what it adds to the provider's own time."""
    with litellm_proxy(provider) as proxy:
        check(proxy, chunks=None)
        served = _measure("LiteLLM", proxy, list(bare), pace)
    for row, each in served.items():
        if each.problem is not None:
            _say(f"row {row}: LiteLLM: {each.problem}")
    measured = {row: each.measured for row, each in served.items()}
    if ADDED_ROW in measured:
        measured[ADDED_ROW] = measured[ADDED_ROW].less(bare[ADDED_ROW].measured.median)
    return measured


def _measure(name: str, target: Target, rows: list[int], pace: Pace) -> dict[int, Served]:
    served = {}
    for row in rows:
        _say(f"row {row}: {name}")
        served[row] = MEASURES[row](target, pace)
    return served


def _line(
    row: int,
    measured: Measured,
    problem: str | None = None,
    yardstick: Measured | None = None,
    bare: Measured | None = None,
) -> Line:
    budget = BUDGETS[row]
    return Line(
        row=row,
        what=budget.what,
        unit=budget.unit,
        first=budget.first,
        then=budget.then,
        measured=measured,
        yardstick=yardstick,
        bare=bare,
        problem=problem,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    known = ",".join(map(str, BUDGETS))
    parser.add_argument("--rows", type=_rows, default=known, help=f"of {known}")
    parser.add_argument("--rounds", type=int, default=3, help="of each row")
    parser.add_argument("--seconds", type=int, default=5, help="of each round")
    parser.add_argument("--no-litellm", dest="litellm", action="store_false")
    parser.add_argument("--json", type=Path, help="a file for the table as JSON")
    return parser.parse_args()


def _rows(text: str) -> frozenset[int]:
    rows = frozenset(int(part) for part in text.split(","))
    if unknown := rows - BUDGETS.keys():
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(map(str, sorted(unknown)))}")
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
