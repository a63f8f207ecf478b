"""What was asked for, and whether it can be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from carpool.prices import Price
from carpool.settings import Settings
from cli.bench.prices import find_prices
from cli.bench.workload import (
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_PROMPT_TOKENS,
    DEFAULT_REQUESTS,
    MOST_REQUESTS,
    Workload,
    read_workload,
    synthetic,
)
from cli.bulk.address import Address, find_address
from cli.bulk.faults import BadInput

FEWEST_MODELS = 2
MOST_CONCURRENCY = 1_000
"""As many connections as the client opens."""
MOST_TOKENS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """As given; None where nothing was."""

    models: str
    requests: int | None = None
    concurrency: int = 8
    input: Path | None = None
    output_dir: Path | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    prices: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is to be done, where all of it can be."""

    address: Address
    models: Sequence[str]
    workload: Workload
    concurrency: int
    prices: Mapping[str, Price]
    seed: int
    directory: Path


def find_wish(options: Options, settings: Settings) -> Wish:
    """The wish behind the options; raises ConfigurationError. No server is asked."""
    _require_within("--requests", options.requests, MOST_REQUESTS)
    _require_within("--concurrency", options.concurrency, MOST_CONCURRENCY)
    _require_within("--prompt-tokens", options.prompt_tokens, MOST_TOKENS)
    _require_within("--max-tokens", options.max_tokens, MOST_TOKENS)
    models = parse_models(options.models)
    return Wish(
        address=find_address(settings),
        models=models,
        workload=_workload(options),
        concurrency=options.concurrency,
        prices=find_prices(settings, models, options.prices),
        seed=options.seed or 0,
        directory=options.output_dir or Path(f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}"),
    )


def parse_models(given: str) -> list[str]:
    """Of names between commas; raises BadInput."""
    models = [name.strip() for name in given.split(",")]
    if "" in models or len(models) < FEWEST_MODELS:
        raise BadInput("--models: name at least two, with a comma between them")
    if len(set(models)) < len(models):
        raise BadInput("--models: one of them is named twice")
    return models


def _workload(options: Options) -> Workload:
    if options.input is None:
        return synthetic(
            requests=options.requests or DEFAULT_REQUESTS,
            prompt_tokens=options.prompt_tokens or DEFAULT_PROMPT_TOKENS,
            max_tokens=options.max_tokens or DEFAULT_OUTPUT_TOKENS,
            seed=options.seed or 0,
        )
    for name, value in (("--prompt-tokens", options.prompt_tokens), ("--seed", options.seed)):
        if value is not None:
            raise BadInput(f"{name}: it is for made-up prompts, and --input gives them")
    return read_workload(options.input, requests=options.requests, max_tokens=options.max_tokens)


def _require_within(option: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise BadInput(f"{option}: from 1 to {most:,}, not {value:,}")
