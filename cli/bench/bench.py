"""`carpool bench`: the same work goes to several models, a report comes out."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from carpool.errors import ConfigurationError
from cli.bench.known import require_models
from cli.bench.lanes import Lanes
from cli.bench.options import Wish
from cli.bench.page import page
from cli.bench.report import Report, Setup, encode_report, make_report
from cli.bench.sample import Sample
from cli.bench.terminal import show
from cli.bench.turns import round_count, take_turns
from cli.bench.workload import warm_up
from cli.bulk.ending import INTERRUPTED, SOME_FAILED, SUCCEEDED
from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.pace import Counts
from cli.bulk.progress import Teller, teller
from cli.bulk.replacement import replacing

JSON_FILE = "report.json"
PAGE_FILE = "report.html"


@dataclass(kw_only=True, slots=True)
class Work:
    """What has been done so far."""

    began_at: datetime
    samples: list[Sample] = field(default_factory=list)


def bench(wish: Wish) -> int:
    """Do it; the exit code. Raises CarpoolError. An interrupt leaves a report of what is done."""
    work = Work(began_at=datetime.now(UTC))
    interrupted = False
    with teller() as told:
        try:
            asyncio.run(_run(wish, work, told))
        except KeyboardInterrupt:
            interrupted = True
            if not work.samples:
                told.say("Interrupted; nothing was measured.")
                return INTERRUPTED
            told.say("Interrupted; the report is of what was done by now.")
    report = make_report(
        _setup(wish), work.samples, began_at=work.began_at, interrupted=interrupted
    )
    _write(wish.directory, report)
    show(report)
    print(f"The report is in {wish.directory / PAGE_FILE} and {wish.directory / JSON_FILE}")
    if interrupted:
        return INTERRUPTED
    return SOME_FAILED if any(one.failed for one in report.summaries) else SUCCEEDED


async def _run(wish: Wish, work: Work, told: Teller) -> None:
    async with wish.address.client() as client:
        await require_models(client, wish.models)
        require_writable(wish.directory)
        lanes = Lanes(client, wish.concurrency)
        await _warm_up(lanes, wish, told)
        work.began_at = datetime.now(UTC)
        note = _noting(work, wish.workload.requests * len(wish.models), told)
        for block in take_turns(wish.models, wish.workload.requests, wish.concurrency):
            bodies = map(wish.workload.body, range(block.begin, block.end))
            await lanes.run(block.model, block.number, bodies, note)


async def _warm_up(lanes: Lanes, wish: Wish, told: Teller) -> None:
    """Open the connections and wake the engines; raises CannotGoOn for a model that only fails."""
    told.say(f"Warming up {', '.join(wish.models)}.")
    bodies = warm_up(requests=wish.concurrency, seed=wish.seed)
    for model in wish.models:
        seen: list[Sample] = []
        await lanes.run(model, 0, bodies, seen.append)
        if all(sample.error is not None for sample in seen):
            raise CannotGoOn(f"{model} answers nothing: {seen[-1].message}")


def _noting(work: Work, total: int, told: Teller) -> Callable[[Sample], None]:
    failed = 0

    def note(sample: Sample) -> None:
        nonlocal failed
        failed += sample.error is not None
        work.samples.append(sample)
        told.show(Counts(total=total, done=len(work.samples), failed=failed))

    return note


def require_writable(directory: Path) -> None:
    """Raise ConfigurationError where no report can be put; nothing is made yet."""
    try:
        taken = [name for name in (JSON_FILE, PAGE_FILE) if (directory / name).exists()]
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"--output-dir: cannot write to {directory}: {error.strerror}"
        ) from error
    if taken:
        raise BadInput(f"--output-dir: {directory} has a {taken[0]} already")


def _write(directory: Path, report: Report) -> None:
    """First the figures, which cannot be had again."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / JSON_FILE) as file:
            file.write(encode_report(report))
        with replacing(directory / PAGE_FILE) as file:
            file.write(page(report).encode(errors="replace"))
    except OSError as error:
        raise CannotGoOn(f"cannot write to {directory}: {error.strerror}") from error


def _setup(wish: Wish) -> Setup:
    address = urlsplit(wish.address.base_url)
    port = f":{address.port}" if address.port else ""
    requests = wish.workload.requests
    return Setup(
        server=f"{address.hostname}{port}",
        models=list(wish.models),
        workload=wish.workload.described,
        requests=requests,
        concurrency=wish.concurrency,
        rounds=round_count(len(wish.models), requests, wish.concurrency),
        prices=wish.prices,
    )
