"""`carpool batches`: looking after batches."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import DataDir

app = typer.Typer(
    name="batches",
    help="Look after batches. The server is that of OPENAI_BASE_URL, else the local one.",
    no_args_is_help=True,
)

BatchId = Annotated[str, typer.Argument(metavar="ID", help="batch_…")]


@app.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, help="The newest of them.")] = 20,
    data_dir: DataDir = None,
) -> None:
    """List the team's batches."""
    from carpool.settings import load
    from cli.bulk import batches
    from cli.bulk.address import find_address

    asyncio.run(batches.show_list(find_address(load(data_dir=data_dir)), limit))


@app.command("show")
def show_batch(batch: BatchId, data_dir: DataDir = None) -> None:
    """Show all of a batch, its errors among it."""
    from carpool.settings import load
    from cli.bulk import batches
    from cli.bulk.address import find_address

    asyncio.run(batches.show(find_address(load(data_dir=data_dir)), batch))


@app.command("cancel")
def cancel_batch(batch: BatchId, data_dir: DataDir = None) -> None:
    """Stop a batch; what is done stays done."""
    from carpool.settings import load
    from cli.bulk import batches
    from cli.bulk.address import find_address

    asyncio.run(batches.cancel(find_address(load(data_dir=data_dir)), batch))


@app.command("retry")
def retry_batch(batch: BatchId, data_dir: DataDir = None) -> None:
    """Make a new batch of the failed requests of one that has ended, and print its id."""
    from carpool.settings import load
    from cli.bulk import batches
    from cli.bulk.address import find_address

    asyncio.run(batches.retry(find_address(load(data_dir=data_dir)), batch))


@app.command("download")
def download_batch(
    batch: BatchId,
    output: Annotated[Path | None, typer.Option(help="Default: ID.output.jsonl.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the output of a batch, and its errors beside it to ….errors.jsonl."""
    from carpool.settings import load
    from cli.bulk import batches
    from cli.bulk.address import find_address

    asyncio.run(batches.download(find_address(load(data_dir=data_dir)), batch, output))
