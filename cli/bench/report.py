"""What a benchmark has found: `report.json`, and the table that is shown of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from carpool import __version__
from carpool.prices import Price
from cli.bench.figures import Spread, Summary, summary
from cli.bench.sample import Sample
from cli.bench.verdict import Verdict, verdicts

UNKNOWN = "unknown"
NONE = "–"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and how."""

    server: str
    """Host and port."""
    models: list[str]
    workload: str
    requests: int
    """Of each model."""
    concurrency: int
    rounds: int
    prices: Mapping[str, Price]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it; times are seconds, money is US dollars."""

    carpool: str
    began_at: datetime
    interrupted: bool
    setup: Setup
    verdicts: list[Verdict]
    notes: list[str]
    summaries: list[Summary]
    samples: list[Sample]


def make_report(
    setup: Setup, samples: Sequence[Sample], *, began_at: datetime, interrupted: bool
) -> Report:
    """The figures of what was measured, which may be less than was planned."""
    summaries = [
        summary(model, (s for s in samples if s.model == model), setup.prices.get(model))
        for model in setup.models
    ]
    return Report(
        carpool=__version__,
        began_at=began_at,
        interrupted=interrupted,
        setup=setup,
        verdicts=verdicts(summaries),
        notes=list(_notes(setup, summaries, interrupted=interrupted)),
        summaries=summaries,
        samples=list(samples),
    )


def encode_report(report: Report) -> bytes:
    """As JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def rows(summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """The table: a name, and the value of each model."""
    named: Mapping[str, Callable[[Summary], str]] = {
        "requests": lambda s: f"{s.requests:,}",
        "failed": lambda s: NONE if s.error_rate is None else f"{s.failed:,} ({s.error_rate:.1%})",
        "requests/s": lambda s: _number(s.requests_per_second),
        "output tokens/s": lambda s: _number(s.output_tokens_per_second),
        **_percentiles("time to first token", lambda s: s.first_token),
        **_percentiles("time per output token", lambda s: s.token),
        **_percentiles("latency", lambda s: s.latency),
        "tokens in": lambda s: _count(s.input_tokens),
        "… of them cached": lambda s: _count(s.cached_tokens),
        "tokens out": lambda s: _count(s.output_tokens),
        "money": lambda s: UNKNOWN if s.dollars is None else f"${s.dollars:,.6f}",
        "… for 1,000 requests": _thousand,
    }
    return [(name, [value(one) for one in summaries]) for name, value in named.items()]


def error_rows(summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """The same of errors: a code, and how many requests of each model ended with it."""
    codes = dict.fromkeys(code for one in summaries for code in one.errors)
    return [(code, [_share(one, code) for one in summaries]) for code in codes]


def _percentiles(
    name: str, spread: Callable[[Summary], Spread | None]
) -> dict[str, Callable[[Summary], str]]:
    def value(percentile: str) -> Callable[[Summary], str]:
        return lambda one: _time(spread(one), percentile)

    return {f"{name}, {field}": value(field) for field in Spread.__struct_fields__}


def _notes(setup: Setup, summaries: Sequence[Summary], *, interrupted: bool) -> Iterator[str]:
    if interrupted:
        yield "It was interrupted: these are the figures of what was done by then."
    if setup.rounds == 1:
        yield (
            "The models could not take turns, each ran once: "
            f"give at least {setup.concurrency * len(setup.models):,} requests."
        )
    made_up = [one.model for one in summaries if one.simulated]
    if made_up:
        yield f"The answers of {', '.join(made_up)} were simulated: they tell nothing of a model."


def _time(spread: Spread | None, percentile: str) -> str:
    if spread is None:
        return NONE
    seconds: float = getattr(spread, percentile)
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _share(one: Summary, code: str) -> str:
    count = one.errors.get(code, 0)
    return f"{count:,} ({count / one.requests:.1%})" if count else NONE


def _thousand(one: Summary) -> str:
    if one.dollars is None or not one.succeeded:
        return UNKNOWN
    return f"${one.dollars / one.succeeded * 1000:,.4f}"
