"""`carpool prices`: what tokens cost."""

import asyncio
from typing import Annotated

import typer

from cli.commands.options import DataDir

app = typer.Typer(
    name="prices", help="Say what tokens cost, and from which date on.", no_args_is_help=True
)

PricedModel = Annotated[str, typer.Argument(help="As clients ask for it, or as the backend does.")]
PricedBackend = Annotated[str, typer.Option(help="This backend's alone. Default: any.")]
PriceDate = Annotated[str, typer.Option(help="Since when it holds: 2026-11-01, in UTC.")]


@app.command("list")
def list_prices(data_dir: DataDir = None) -> None:
    """List all prices, in dollars for a million tokens."""
    from carpool.settings import load
    from cli import prices
    from cli.connection import connected

    asyncio.run(prices.show(connected(load(data_dir=data_dir), redis=False)))


@app.command("set")
def set_price(
    model: PricedModel,
    since: PriceDate,
    input: Annotated[str, typer.Option(help="Dollars for a million tokens.")],  # noqa: A002 - an option's name
    output: Annotated[str, typer.Option(help="Of output tokens, the same.")],
    cached: Annotated[str | None, typer.Option(help="Of cached input. Default: as input.")] = None,
    written: Annotated[
        str | None, typer.Option(help="Of input written into the cache. Default: as input.")
    ] = None,
    backend: PricedBackend = "",
    long_tokens: Annotated[
        int | None, typer.Option(help="Above so many input tokens a request is dearer:")
    ] = None,
    long_input: Annotated[str | None, typer.Option(help="its input by this factor,")] = None,
    long_output: Annotated[str | None, typer.Option(help="its output by this one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Give a model a price from a date on. A price of an own backend is what it costs there."""
    from carpool.settings import load
    from cli import prices
    from cli.connection import connected

    values = {
        "model": model,
        "backend": backend,
        "since": since,
        "input": input,
        "cached": cached,
        "written": written,
        "output": output,
        "long_tokens": long_tokens,
        "long_input": long_input,
        "long_output": long_output,
    }
    asyncio.run(prices.put(connected(load(data_dir=data_dir), redis=False), values))


@app.command("delete")
def delete_price(
    model: PricedModel, since: PriceDate, backend: PricedBackend = "", data_dir: DataDir = None
) -> None:
    """Delete a price: the one before it holds again. One of the TOML file returns at a start."""
    from carpool.settings import load
    from cli import prices
    from cli.connection import connected

    settings = connected(load(data_dir=data_dir), redis=False)
    asyncio.run(prices.delete(settings, model=model, backend=backend, since=since))
