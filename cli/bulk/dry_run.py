"""`carpool submit --dry-run`: what the server says of a file, without starting anything."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from carpool.ids import new_id
from cli.bulk import ending
from cli.bulk.faults import CannotGoOn
from cli.bulk.pace import duration
from cli.bulk.plan import Part, PartFiles, Plan
from cli.bulk.progress import Teller
from cli.bulk.server import Server
from cli.bulk.source import Source
from cli.bulk.submission import priority

KEPT_SECONDS = 3600
"""Where the deletion of the uploaded file does not come through."""


class _Tokens(msgspec.Struct, frozen=True):
    input: int
    max_output: int | None
    counted_by: str


class _Price(msgspec.Struct, frozen=True):
    currency: str
    amount: float


class _LineError(msgspec.Struct, frozen=True):
    code: str | None = None
    line: int | None = None
    message: str | None = None


class _Errors(msgspec.Struct, frozen=True):
    data: list[_LineError]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to a dry run of one part."""

    valid: bool
    model: str | None
    endpoint: str
    errors: _Errors | None
    tokens: _Tokens | None = None
    seconds: float | None = None
    price: _Price | None = None


async def dry_run(server: Server, told: Teller, source: Source, plan: Plan) -> list[Report]:
    """What the server says of each part; nothing is left there."""
    with TemporaryDirectory(prefix="carpool-") as directory:
        path = Path(directory) / "part.jsonl"
        files = PartFiles(source, plan.parts)
        reports = []
        for part in plan.parts:
            files.write(part, path)
            reports.append(await _report(server, told, source, part, path))
        return reports


def conclude(source: Source, plan: Plan, reports: list[Report]) -> int:
    """Print what they say together; the exit code. Raises BadInput for a file that is refused."""
    if not all(report.valid for report in reports):
        raise ending.refusal(
            source,
            (
                (rows, report.errors.data if report.errors else [])
                for rows, report in zip(plan.before, reports, strict=True)
                if not report.valid
            ),
        )
    for name, value in summary(plan, reports).items():
        print(f"{name:<10} {value}")
    return ending.SUCCEEDED


def summary(plan: Plan, reports: list[Report]) -> dict[str, str]:
    """By what it is about."""
    tokens = [report.tokens for report in reports if report.tokens is not None]
    most = _sum(token.max_output for token in tokens)
    counted = {token.counted_by for token in tokens}
    seconds = _sum(report.seconds for report in reports)
    amount = _sum(None if r.price is None else r.price.amount for r in reports)
    price = reports[0].price
    batches = "1 batch" if len(reports) == 1 else f"{len(reports):,} batches"
    about = "" if counted == {"tokenizer"} else "about "
    return {
        "valid": "yes",
        "model": reports[0].model or "",
        "endpoint": reports[0].endpoint,
        "requests": f"{plan.requests:,} in {batches}",
        "bytes": f"{sum(part.bytes for part in plan.parts):,}",
        "tokens": f"{about}{sum(token.input for token in tokens):,} in, "
        + ("no limit set for those out" if most is None else f"at most {most:,.0f} out"),
        "time": "unknown" if seconds is None else f"about {duration(seconds)}",
        "price": "unknown" if amount is None or not price else f"{amount:.4f} {price.currency}",
    }


async def _report(server: Server, told: Teller, source: Source, part: Part, path: Path) -> Report:
    name = f"carpool-dry-run-{new_id().hex}-part-{part.number}.jsonl"

    async def upload() -> str:
        with told.upload(f"part {part.number}", part.bytes) as sent:
            return await server.send(path, name, sent, kept_seconds=KEPT_SECONDS)

    file_id = await server.ask(upload)
    options = source.options
    body: dict[str, object] = {
        "input_file_id": file_id,
        "endpoint": source.endpoint,
        "completion_window": options.window,
        **({"metadata": options.metadata} if options.metadata else {}),
        **priority(options),
    }
    try:
        answer = await server.ask(lambda: server.post("/batches", body, dry_run="true"))
    finally:
        await server.delete_file(file_id)
    try:
        return msgspec.json.decode(answer, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotGoOn(f"the server's report makes no sense: {error}") from error


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one of them is unknown."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
