"""The provider's files and batches, over the SDK's connections: what is sent and what comes back.

Bytes are decoded here and not by the SDK: HTML under status 200 is a failure like any other.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import IO, TypeVar
from uuid import UUID

import anyio
import httpx2
import msgspec
import openai

from carpool.errors import CarpoolError, PassingError
from carpool.lines import Line, Lines
from carpool.settings import OpenAIBatchSettings
from db.provider_batches import ProviderBatch
from workers.backends.openai import OPENAI_URL
from workers.backends.openai_errors import refuse
from workers.backends.openai_key import key_of

METADATA_KEY = "carpool_batch"
PAGE = 100
PAGES = 20
"""How far back an upload is looked for; one that is not found is made again, for no money."""
CLOCKS_APART_SECONDS = 3600.0
"""How far the provider's clock may be behind ours."""
CONNECT_SECONDS = 10.0
LINE_BYTES = 64 * 1024 * 1024
"""A longer line of an output file is no answer."""

_BROKEN = (httpx2.RequestError, httpx2.StreamError, OSError, anyio.EndOfStream)
_Decoded = TypeVar("_Decoded")
_Found = TypeVar("_Found", bound="_Listed")


class Refused(CarpoolError):
    """The provider refuses what was asked for good; ``body`` is its error in OpenAI's shape."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"The provider answered {status}: {body.decode(errors='replace')[:500]}")
        self.status = status
        self.body = body

    @property
    def summary(self) -> str:
        """Its status, for the body may repeat what was sent."""
        return f"The provider answered {self.status}"


class BatchFault(msgspec.Struct):
    """An entry of ``errors.data``."""

    code: str | None = None
    message: str | None = None
    line: int | None = None
    param: str | None = None


class _Errors(msgspec.Struct):
    data: list[BatchFault] | None = None


class _Listed(msgspec.Struct, kw_only=True):
    id: str
    created_at: float | None = None


class Seen(_Listed, kw_only=True):
    """A batch as the provider shows it."""

    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    metadata: dict[str, str] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def faults(self) -> list[BatchFault]:
        """Why its file was refused."""
        return (self.errors.data or []) if self.errors is not None else []


class Upload(_Listed, kw_only=True):
    """A file as the provider shows it."""

    filename: str
    bytes: int = -1


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False


def filename_of(batch: UUID) -> str:
    """By which an upload is known again."""
    return f"carpool-{batch.hex}.jsonl"


class Provider:
    """One account at a provider. Every call raises PassingError for what may pass, else Refused."""

    def __init__(self, name: str, settings: OpenAIBatchSettings) -> None:
        self.name = name
        self.failing_since: float | None = None
        """When, by the loop's clock, the first of the calls failed that have failed since."""
        self._timeout = settings.timeout_seconds
        timeout = httpx2.Timeout(
            settings.timeout_seconds, connect=min(CONNECT_SECONDS, settings.timeout_seconds)
        )
        self._client = openai.AsyncOpenAI(
            api_key=key_of(name, settings),
            base_url=settings.base_url or OPENAI_URL,
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(timeout=timeout, follow_redirects=True),
        )

    async def close(self) -> None:
        await self._client.close()

    async def upload(self, batch: UUID, file: IO[bytes]) -> str:
        """Send a file from its present place on; its id there."""
        async with self._calling():
            response = await self._client.post(
                "/files",
                cast_to=httpx2.Response,
                body={"purpose": "batch"},
                files=[("file", (filename_of(batch), file, "application/jsonl"))],
                options={"headers": {"content-type": "multipart/form-data"}},
            )
            return _decode(response.content, Upload).id

    async def uploads(self, batch: UUID) -> list[Upload]:
        """Our earlier uploads of this batch."""
        name = filename_of(batch)
        listed = self._listed("/files", Upload, purpose="batch", order="desc")
        return [upload async for upload in listed if upload.filename == name]

    async def delete_file(self, identifier: str) -> None:
        """Delete a file, if it is still there."""
        try:
            async with self._calling():
                await self._client.delete(f"/files/{identifier}", cast_to=httpx2.Response)
        except Refused as error:
            if error.status != 404:
                raise

    async def create(self, batch: ProviderBatch, endpoint: str) -> Seen:
        """Submit an uploaded file under our id."""
        async with self._calling():
            response = await self._client.post(
                "/batches",
                cast_to=httpx2.Response,
                body={
                    "input_file_id": batch.input_file,
                    "endpoint": endpoint,
                    "completion_window": batch.window,
                    "metadata": {METADATA_KEY: str(batch.id)},
                },
            )
            return _decode(response.content, Seen)

    async def created(self, batch: ProviderBatch) -> list[Seen]:
        """The batches there that carry our id, newest first.

        However many others are newer: one that is not found is created, and paid, again.
        """
        name = str(batch.id)
        since = batch.created_at.timestamp() - CLOCKS_APART_SECONDS
        listed = self._listed("/batches", Seen, since=since)
        return [seen async for seen in listed if (seen.metadata or {}).get(METADATA_KEY) == name]

    async def get(self, identifier: str) -> Seen:
        async with self._calling():
            response = await self._client.get(f"/batches/{identifier}", cast_to=httpx2.Response)
            return _decode(response.content, Seen)

    async def cancel(self, identifier: str) -> None:
        """Cancel a batch, unless it is over."""
        try:
            async with self._calling():
                await self._client.post(
                    f"/batches/{identifier}/cancel", cast_to=httpx2.Response, body={}
                )
        except Refused:
            return
        except PassingError as error:
            if error.status != 409:
                raise

    async def ask(
        self, method: str, path: str, kind: type[_Decoded], body: bytes = b""
    ) -> tuple[_Decoded, httpx2.Headers]:
        """One call of any other path: its answer, and the headers over it."""
        client = self._client
        async with self._calling():
            match method:
                case "POST":
                    response = await client.post(
                        path,
                        cast_to=httpx2.Response,
                        content=body,
                        options={"headers": {"content-type": "application/json"}},
                    )
                case "DELETE":
                    response = await client.delete(path, cast_to=httpx2.Response)
                case _:
                    response = await client.get(path, cast_to=httpx2.Response)
            return _decode(response.content, kind), response.headers

    async def reachable(self) -> None:
        """Return if the provider answers with what a provider answers."""
        async with self._calling():
            response = await self._client.get(
                "/batches", cast_to=httpx2.Response, options={"params": {"limit": 1}}
            )
            _decode(response.content, _Page)

    async def lines(self, identifier: str) -> AsyncGenerator[Line, None]:
        """The lines of a file, as they come; a file that is cut off raises PassingError."""
        async with self._calling():
            response = await self._client.get(
                f"/files/{identifier}/content",
                cast_to=httpx2.Response,
                options={"headers": {"accept": "application/binary"}},
                stream=True,
            )
            lines = Lines(limit_bytes=LINE_BYTES)
            async with aclosing(response), aclosing(response.aiter_bytes()) as pieces:
                async for piece in pieces:
                    for line in lines.feed(piece):
                        yield line
            for line in lines.finish():
                yield line

    async def _listed(
        self, path: str, kind: type[_Found], *, since: float | None = None, **query: str
    ) -> AsyncIterator[_Found]:
        """Page by page: back to a time, where one is given, else so many pages."""
        after: dict[str, str] = {}
        for number in count(1):
            async with self._calling():
                response = await self._client.get(
                    path,
                    cast_to=httpx2.Response,
                    options={"params": {"limit": PAGE, **query, **after}},
                )
                page = _decode(response.content, _Page)
                found = [_decode(item, kind) for item in page.data]
            for item in found:
                yield item
            last = {"after": found[-1].id} if page.has_more and found else after
            # A page that ends as the one before is that of a server that does not know `after`.
            if last == after or (number >= PAGES if since is None else _is_before(found, since)):
                return
            after = last

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[None]:
        """Translate what goes wrong, and note whether the provider answers."""
        try:
            yield
        except openai.APIStatusError as error:
            refused = self._refused(error.response)
            self.failing_since = None
            raise refused from None
        except openai.APITimeoutError:
            raise self._failure("it did not answer in time") from None
        except (openai.APIConnectionError, *_BROKEN) as error:
            cause = error.__cause__ or error
            raise self._failure(f"the connection failed ({type(cause).__name__})") from error
        except msgspec.DecodeError as error:
            raise self._failure(f"its answer cannot be read ({error})") from None
        else:
            self.failing_since = None

    def _refused(self, response: httpx2.Response) -> Refused:
        try:
            if response.status_code == 403 or not _is_json(response.content):
                # The account is refused; or something on the way to the provider answers.
                raise PassingError(
                    f"The provider of backend '{self.name}' answered {response.status_code}."
                )
            answer = refuse(self.name, response.status_code, response.content, response.headers)
        except PassingError:
            self._note_failure()
            raise
        return Refused(answer.status, answer.body)

    def _failure(self, reason: str) -> PassingError:
        self._note_failure()
        return PassingError(f"The provider of backend '{self.name}' failed: {reason}.")

    def _note_failure(self) -> None:
        if self.failing_since is None:
            self.failing_since = asyncio.get_running_loop().time()


def _is_before(page: Sequence[_Listed], since: float) -> bool:
    """Whether a page and all behind it are older; no where the newest is not first."""
    first, last = page[0].created_at, page[-1].created_at
    return first is not None and last is not None and last <= first < since


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return False
    return True


def _decode(body: bytes | msgspec.Raw, kind: type[_Decoded]) -> _Decoded:
    return msgspec.json.decode(body, type=kind)
