"""`carpool batches`: list, show, cancel and retry batches, and download what they made."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from openai.types import Batch
from rich.console import Console
from rich.table import Column, Table

from carpool.errors import CarpoolError
from cli.bulk.address import Address
from cli.bulk.asking import asked_once
from cli.bulk.faults import CannotGoOn, printable
from cli.bulk.progress import teller
from cli.bulk.replacement import replacing, require_directory
from cli.bulk.server import Server, opened_server

WIDTH = 240
"""Wider than a terminal, where it must be: an id that is cut off names nothing."""
PAGE_BATCHES = 100

Answer = TypeVar("Answer")


async def show_list(address: Address, limit: int) -> None:
    """Print the newest batches."""

    async def ask(server: Server) -> list[Batch]:
        found = []
        async for batch in server.client.batches.list(limit=min(limit, PAGE_BATCHES)):
            found.append(batch)
            if len(found) == limit:
                break
        return found

    batches = await _asked(address, ask)
    headings = ("id", "status", "model", "total", "done", "failed", "window", "made")
    table = Table(*(Column(heading, no_wrap=True) for heading in headings), box=None)
    for batch in batches:
        total, done, failed = _counts(batch)
        table.add_row(
            *(batch.id, batch.status, printable(batch.model or ""), total, done, failed),
            *(batch.completion_window, _moment(batch.created_at)),
        )
    Console(width=WIDTH, markup=False, highlight=False).print(table)


async def show(address: Address, identifier: str) -> None:
    """Print all that is known of a batch, a field on each line."""
    batch = await _asked(address, lambda server: server.client.batches.retrieve(identifier))
    for name, value in described(batch):
        print(f"{name:<18} {printable(value)}")


async def cancel(address: Address, identifier: str) -> None:
    """Stop a batch; what is done stays done."""
    batch = await _asked(address, lambda server: server.client.batches.cancel(identifier))
    print(batch.status)


async def retry(address: Address, identifier: str) -> None:
    """Print the id of a new batch of the failed requests alone."""
    path = f"/batches/{quote(identifier, safe='')}/retry"
    answer = await _asked(address, lambda server: server.post(path, {}))
    try:
        print(msgspec.json.decode(answer, type=_Made).id)
    except msgspec.DecodeError as error:
        raise CannotGoOn(f"the server's answer makes no sense: {error}") from error


async def download(address: Address, identifier: str, output: Path | None) -> None:
    """Write the output and the error file of a batch, each as a whole, and print their names."""
    path = output or Path(f"{identifier}.output.jsonl")
    require_directory(path)
    with teller() as told:
        async with opened_server(address, told) as server:
            batch = await server.batch(identifier)
            files = {path: batch.output_file_id, errors_path(path): batch.error_file_id}
            if not any(files.values()):
                raise CarpoolError(f"{identifier} is {batch.status}, and has no files")
            for target, file_id in files.items():
                if file_id is not None:
                    await _download(server, file_id, target)
                    print(target)


def errors_path(path: Path) -> Path:
    """Beside the output file."""
    stem = path.stem.removesuffix(".output")
    return path.with_name(f"{stem}.errors{path.suffix}")


def described(batch: Batch) -> Iterable[tuple[str, str]]:
    """By name; what is not known is left out."""
    for name, value in batch.to_dict().items():
        match value:
            case None:
                continue
            case int() if name.endswith("_at"):
                yield name, _moment(value)
            case {"data": [*errors]} if name == "errors":
                for error in errors:
                    yield "error", _error(error)
            case dict():
                yield name, msgspec.json.encode(value).decode()
            case _:
                yield name, str(value)


class _Made(msgspec.Struct):
    id: str


async def _asked(address: Address, ask: Callable[[Server], Awaitable[Answer]]) -> Answer:
    with teller() as told:
        async with opened_server(address, told) as server:
            return await asked_once(lambda: ask(server))


async def _download(server: Server, file_id: str, path: Path) -> None:
    with replacing(path) as file:
        async for chunk in server.chunks(file_id):
            file.write(chunk)


def _counts(batch: Batch) -> tuple[str, str, str]:
    counts = batch.request_counts
    if counts is None:
        return "", "", ""
    return str(counts.total), str(counts.completed + counts.failed), str(counts.failed)


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _error(error: object) -> str:
    match error:
        case {"message": message, "line": int(line)}:
            return f"line {line:,}: {message}"
        case {"message": message}:
            return str(message)
        case _:
            return str(error)
