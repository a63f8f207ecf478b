"""`carpool routes`: which backends answer a model."""

import asyncio
from typing import Annotated

import typer

from cli.commands.options import ConfigFile, DataDir

app = typer.Typer(
    name="routes",
    help="Which backends answer a model, and when; changed while all runs.",
    no_args_is_help=True,
)

ROUTE_HELP = (
    "Give a model a route: legs, of which the first that fits a request and is up answers it.\n\n"
    "A leg is BACKEND, or BACKEND=NAME where the model has another name there, and conditions: "
    "class=interactive+flex+batch, team=A+B, share=5% (of the traffic, stable by request), "
    "after=20s (for what has waited so long), left=1h (for batches with so much time left), "
    "max-price=2 (while a million output tokens cost no more there). Legs with after or left open "
    "beside the others.\n\n"
    "carpool routes set house gpu openai=gpt-6.1-terra,after=20s"
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The name that clients use.")]


@app.command("list")
def list_routes(data_dir: DataDir = None) -> None:
    """List all routes, the first leg first."""
    from carpool.settings import load
    from cli import routes
    from cli.connection import connected

    asyncio.run(routes.show(connected(load(data_dir=data_dir), redis=False)))


@app.command("set", help=ROUTE_HELP)
def set_route(
    model: ModelName,
    legs: Annotated[
        list[str] | None, typer.Argument(metavar="[LEG]...", help="BACKEND[=NAME][,CONDITION=…]…")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Share the route of this model.")] = None,
    cache: Annotated[str | None, typer.Option(help="Keep answers so long: 10m, 1h, …")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    from carpool.settings import load
    from cli import routes
    from cli.connection import connected

    settings = connected(load(data_dir=data_dir, config=config))
    asyncio.run(routes.change(settings, model, legs or [], alias=alias, cache=cache))


@app.command("delete")
def delete_route(model: ModelName, data_dir: DataDir = None) -> None:
    """Take a model's route away; its requests wait."""
    from carpool.settings import load
    from cli import routes
    from cli.connection import connected

    asyncio.run(routes.delete(connected(load(data_dir=data_dir)), model))


@app.command("history")
def route_history(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Of this alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest of them.")] = 20,
    data_dir: DataDir = None,
) -> None:
    """Show who changed which route, when, and from what to what."""
    from carpool.settings import load
    from cli import routes
    from cli.connection import connected

    settings = connected(load(data_dir=data_dir), redis=False)
    asyncio.run(routes.history(settings, model, limit=limit))
