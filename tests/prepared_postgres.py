"""A Postgres with Carpool's whole schema, made once for each process of the tests, and copied.

Each stack would make its own at its first start, for a quarter of that start's time. The copies
keep nothing over a crash of the machine (fsync is off), which no test is about; what a killed
server had committed, its crash recovery brings back.
"""

import asyncio
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from cli.postgres import embedded_postgres
from db.migrate import migrate

NAME = "postgres"
SETTINGS = "fsync = off\nfull_page_writes = off\n"


def give(directory: Path) -> None:
    """Lay a copy where `carpool up` keeps its Postgres, as if it had been started before."""
    # By cp, for the files belong to the server's own account.
    subprocess.run(
        ["cp", "--archive", "--reflink=auto", str(_prepared() / NAME), str(directory)], check=True
    )


def forget() -> None:
    """Remove what the copies are made of."""
    if _prepared.cache_info().currsize:
        shutil.rmtree(_prepared())
        _prepared.cache_clear()


@cache
def _prepared() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="carpool-"))
    # In a thread, for who asks may have a loop of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _prepare(directory / NAME)).result()
    with (directory / NAME / "postgresql.conf").open("a") as file:
        file.write(SETTINGS)
    return directory


async def _prepare(data: Path) -> None:
    async with embedded_postgres(data, durable=False) as url:
        await asyncio.to_thread(migrate, url)
