"""`carpool workers`: the processes, and workers drained and resumed."""

import asyncio
from typing import Annotated

import typer

from cli.commands.options import DataDir

app = typer.Typer(
    name="workers",
    help="List the processes; have a worker claim nothing more, and go on.",
    no_args_is_help=True,
)
Worker = Annotated[str, typer.Argument(metavar="ID", help="As `list` tells it: proc_…")]


@app.command("list")
def list_workers(data_dir: DataDir = None) -> None:
    """List the processes that live, and those that died within the hour."""
    from carpool.settings import load
    from cli import workers
    from cli.connection import connected

    asyncio.run(workers.show(connected(load(data_dir=data_dir), redis=False)))


@app.command("drain")
def drain_worker(worker: Worker, data_dir: DataDir = None) -> None:
    """Have a worker end what it holds and claim nothing more; its engine stays loaded."""
    from carpool.settings import load
    from cli import workers
    from cli.connection import connected

    asyncio.run(workers.drain(connected(load(data_dir=data_dir)), worker))


@app.command("resume")
def resume_worker(worker: Worker, data_dir: DataDir = None) -> None:
    """Have a worker claim again."""
    from carpool.settings import load
    from cli import workers
    from cli.connection import connected

    asyncio.run(workers.resume(connected(load(data_dir=data_dir)), worker))
