"""What `carpool submit` asks of a Carpool; every call of it is safe to be repeated."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import openai
from openai import AsyncOpenAI
from openai.types import Batch
from openai.types.file_create_params import ExpiresAfter

from cli.bulk.address import Address
from cli.bulk.asking import Asking
from cli.bulk.faults import CannotGoOn
from cli.bulk.progress import Sent, Teller

UPLOAD_TIMEOUT = openai.Timeout(60.0, read=600.0)
"""In seconds; ``read`` is how long a whole upload may be thought over."""
ANSWER_SECONDS = 30.0
"""Over what was asked for, until a long-poll counts as lost."""
PAGE_LINES = 1_000
PAGE_BATCHES = 100
CHUNK_BYTES = 8 * 2**20
"""Of a download."""
JSONL = "application/jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Finished lines of a batch."""

    lines: bytes
    cursor: str
    more: bool


class Server:
    """A Carpool; each method asks with patience, and raises CannotGoOn."""

    def __init__(self, client: AsyncOpenAI, asking: Asking) -> None:
        self.client = client
        self.ask = asking
        self.base_url = str(client.base_url)

    async def models(self) -> list[str]:
        """Their names."""

        async def ask() -> list[str]:
            return [model.id async for model in self.client.models.list()]

        return await self.ask(ask)

    async def send(self, path: Path, name: str, sent: Sent, *, kept_seconds: int | None) -> str:
        """Upload a file, from disk, in one try; its id. It is kept for a time, or for the usual."""
        with _Watched(path, sent) as file:
            kept = {"anchor": "created_at", "seconds": kept_seconds}
            made = await self.client.files.create(
                file=(name, file, JSONL),
                purpose="batch",
                expires_after=openai.omit if kept_seconds is None else cast(ExpiresAfter, kept),
                timeout=UPLOAD_TIMEOUT,
            )
        return made.id

    async def find_file(self, name: str, size: int) -> str | None:
        """The id of a whole file of this name, newest first."""
        async for file in self.client.files.list(purpose="batch", order="desc"):
            if file.filename == name and file.bytes == size:
                return file.id
        return None

    async def find_batch(self, metadata: dict[str, str], file_id: str) -> str | None:
        """The id of the batch of a file that has all of this metadata."""
        async for batch in self.client.batches.list(limit=PAGE_BATCHES):
            own = metadata.items() <= (batch.metadata or {}).items()
            if own and batch.input_file_id == file_id:
                return batch.id
        return None

    async def delete_file(self, identifier: str) -> None:
        """It may be gone already."""

        async def ask() -> None:
            try:
                await self.client.files.delete(identifier)
            except openai.NotFoundError:
                return

        await self.ask(ask)

    async def batch(self, identifier: str, wait_seconds: float = 0) -> Batch:
        """A batch now, or at its next change within the wait."""
        query = {"wait": wait_seconds} if wait_seconds else None
        return await self.ask(
            lambda: self.client.batches.retrieve(
                identifier, extra_query=query, timeout=wait_seconds + ANSWER_SECONDS
            )
        )

    async def results(self, identifier: str, cursor: str | None) -> Page:
        """The lines that were finished after a cursor; None: all from the first on."""
        params: dict[str, object] = {"limit": PAGE_LINES} | ({"after": cursor} if cursor else {})
        answer = await self.ask(
            lambda: self.client.get(
                f"/batches/{identifier}/results",
                cast_to=openai.HttpxBinaryResponseContent,
                options={"params": params},
            )
        )
        headers = answer.response.headers
        page = Page(
            lines=answer.content,
            cursor=headers.get("x-next-after", ""),
            more=headers.get("x-has-more") == "true",
        )
        if not page.cursor or (page.lines and not page.lines.endswith(b"\n")):
            raise CannotGoOn(f"the results of {identifier} are not those of a Carpool")
        return page

    async def chunks(self, identifier: str) -> AsyncIterator[bytes]:
        """A file's bytes, asked for piece by piece."""
        size = (await self.ask(lambda: self.client.files.retrieve(identifier))).bytes
        for begin in range(0, size, CHUNK_BYTES):
            end = min(begin + CHUNK_BYTES, size)
            wanted = {"Range": f"bytes={begin}-{end - 1}"}
            answer = await self.ask(
                lambda wanted=wanted: self.client.files.content(  # type: ignore[misc]
                    identifier, extra_headers=wanted
                )
            )
            if len(answer.content) != end - begin:
                raise CannotGoOn(f"the server does not give pieces of the file {identifier}")
            yield answer.content

    async def post(self, path: str, body: dict[str, object], **query: object) -> bytes:
        """Of what is Carpool's own: the answer to one try."""
        answer = await self.client.post(
            path, body=body, cast_to=openai.HttpxBinaryResponseContent, options={"params": query}
        )
        return answer.content


@asynccontextmanager
async def opened_server(address: Address, told: Teller) -> AsyncIterator[Server]:
    """A Carpool for the length of the context."""
    async with address.client() as client:
        yield Server(client, Asking(told.say))


class _Watched(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, sent: Sent) -> None:
        super().__init__(path)
        self._sent = sent

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size)
        self._sent(self.tell())
        return chunk or b""
