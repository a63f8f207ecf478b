"""The API dies while bytes come in: nobody sees half a file, and nothing of it is left behind."""

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from openai import APIConnectionError, OpenAI

from tests.stack import LOOK_SECONDS, WAIT_SECONDS, Stack, eventually, stack_in_temporary_directory

API = "api"
CLEANING = {"CARPOOL_CLEAN_SECONDS": "0.2"}
CONTENT = Random(1).randbytes(12_000_000)
HALF = len(CONTENT) // 2
ROWS = "select (select count(*) from files) + (select count(*) from upload_parts)"
COMPLETING = """
select pg_terminate_backend(pid) from pg_stat_activity
where wait_event_type = 'Lock' and query like '%set state = 1, file_id%'
"""


class Fatal(io.BytesIO):
    """A file whose reader's server is killed half-way, once, when the store has begun with it."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(CONTENT)
        self.name = "whole.bin"
        self.killed = False
        self._stack = stack

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= HALF and not self.killed:
            give_up = time.monotonic() + WAIT_SECONDS
            while not any(path.suffix for path in stored(self._stack)):
                assert time.monotonic() < give_up
                time.sleep(LOOK_SECONDS)
            os.kill(self._stack.pid(API), signal.SIGKILL)
            self.killed = True
        return super().read(size)


@pytest.fixture(scope="module")
def cleaning_stack() -> Iterator[Stack]:
    with stack_in_temporary_directory(CLEANING) as started:
        yield started


@pytest.fixture
async def stack(cleaning_stack: Stack) -> AsyncIterator[Stack]:
    """With an API that serves, and without a file."""
    await eventually(cleaning_stack.ready)
    yield cleaning_stack
    with cleaning_stack.client(max_retries=5) as client:
        await asyncio.to_thread(delete_all, client)
    await only(cleaning_stack)


def delete_all(client: OpenAI) -> None:
    for file in client.files.list():
        client.files.delete(file.id)


def stored(stack: Stack) -> list[Path]:
    """All that the store has, half-written or whole."""
    return [path for path in (stack.directory / "files").rglob("*") if path.is_file()]


async def only(stack: Stack, *files: str) -> None:
    """Wait until the store and the tables have these files, and nothing else."""
    names = {file.removeprefix("file-") for file in files}

    async def clean() -> bool:
        return {path.name for path in stored(stack)} == names and bool(
            await stack.value(ROWS) == len(files)
        )

    await eventually(clean)


async def test_a_killed_api_leaves_nothing_of_half_a_file(stack: Stack) -> None:
    fatal = Fatal(stack)
    with stack.client() as client:
        with pytest.raises(APIConnectionError):
            await asyncio.to_thread(client.files.create, file=fatal, purpose="user_data")
        assert fatal.killed
        await eventually(stack.ready)
        assert list(await asyncio.to_thread(client.files.list)) == []
    await only(stack)


async def test_the_clients_own_retry_brings_the_file(stack: Stack) -> None:
    fatal = Fatal(stack)
    with stack.client(max_retries=2) as client:
        made = await asyncio.to_thread(client.files.create, file=fatal, purpose="user_data")
        assert fatal.killed
        assert [file.id for file in await asyncio.to_thread(client.files.list)] == [made.id]
        got = await asyncio.to_thread(client.files.content, made.id)
        assert got.content == CONTENT
    await only(stack, made.id)


async def test_the_clients_own_retry_brings_the_part(stack: Stack) -> None:
    fatal = Fatal(stack)
    with stack.client(max_retries=2) as client:

        def bring() -> Any:
            upload = client.uploads.create(
                bytes=len(CONTENT), filename="f", mime_type="any", purpose="user_data"
            )
            part = client.uploads.parts.create(upload.id, data=fatal)
            assert fatal.killed
            return client.uploads.complete(upload.id, part_ids=[part.id])

        done = await asyncio.to_thread(bring)
        assert done.status == "completed"
        got = await asyncio.to_thread(client.files.content, done.file.id)
        assert got.content == CONTENT
    await only(stack, done.file.id)


async def test_a_completion_whose_api_is_killed_is_repeated_and_makes_one_file(
    stack: Stack,
) -> None:
    """Killed when the whole file lies in the store, and its upload does not say so yet."""
    async with stack.async_client(max_retries=2) as client:
        upload = await client.uploads.create(
            bytes=len(CONTENT), filename="f", mime_type="any", purpose="user_data"
        )
        parts = [
            (await client.uploads.parts.create(upload.id, data=data)).id
            for data in (CONTENT[HALF:], CONTENT[:HALF])
        ]

        async def written() -> bool:
            whole = [path for path in stored(stack) if path.parent.name == "files"]
            return [path.suffix for path in whole] == [""]

        async with stack.locked("uploads"):
            completing = asyncio.create_task(
                client.uploads.complete(upload.id, part_ids=parts[::-1])
            )
            await eventually(written)
            await eventually(lambda: stack.fetch(COMPLETING.replace("pg_terminate_backend", "")))
            os.kill(stack.pid(API), signal.SIGKILL)
            assert await stack.fetch(COMPLETING)
            assert not completing.done()
        done = await completing
        assert done.status == "completed"
        assert done.file is not None
        assert [file.id async for file in client.files.list()] == [done.file.id]
        assert (await client.files.content(done.file.id)).content == CONTENT
        again = await client.uploads.complete(upload.id, part_ids=parts[::-1])
        assert again == done
    await only(stack, done.file.id)
