"""Batches for tests: their input files, their ends, and a proof over their output files."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import httpx

from tests.clients import Requests
from tests.stack import MODEL, eventually

Json = dict[str, Any]
URL = "/v1/chat/completions"
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
END_SECONDS = 60.0
RETRIES = 20
RETRY_SECONDS = 0.2


def line(custom_id: str, **changes: Any) -> Json:
    """A line of an input file; the changes of ``body`` go over a short chat."""
    name = custom_id[:40].replace("\0", "NUL")
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Who is {name}?"}],
        "max_tokens": 2,
    }
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": body | changes.pop("body", {}),
    } | changes


def lines(number: int, **changes: Any) -> list[Json]:
    """So many lines alike, ``r0`` to the last."""
    return [line(f"r{n}", **changes) for n in range(number)]


def jsonl(items: Iterable[Json]) -> bytes:
    """The bytes of a file."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


class Batches:
    """A team's batches over bare HTTP; AssertionError for an answer that is an error."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self._requests = Requests(http)

    async def upload(self, content: bytes | Iterable[Json], purpose: str = "batch") -> str:
        """The id of a new file."""
        data = content if isinstance(content, bytes) else jsonl(content)
        answer = await self.http.post(
            "/files", data={"purpose": purpose}, files={"file": ("in.jsonl", data)}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def create(self, content: bytes | Iterable[Json], **changes: Any) -> Json:
        """A batch of a new file."""
        return await self.of_file(await self.upload(content), **changes)

    async def of_file(self, file: str, **changes: Any) -> Json:
        """A batch of a file."""
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"} | changes
        return await self.ask("POST", "/batches", json=body)

    async def get(self, batch: str, **query: Any) -> Json:
        return await self.ask("GET", f"/batches/{batch}", params=query)

    async def cancel(self, batch: str) -> Json:
        return await self.ask("POST", f"/batches/{batch}/cancel")

    async def until(self, batch: str, *statuses: str, seconds: float = END_SECONDS) -> Json:
        """The batch once it has one of these statuses."""

        async def look() -> Json | None:
            found = await self.get(batch)
            return found if found["status"] in statuses else None

        return await eventually(look, seconds)

    async def ended(self, batch: str, seconds: float = END_SECONDS) -> Json:
        """The batch once it has ended."""
        return await self.until(
            batch, "completed", "failed", "expired", "cancelled", seconds=seconds
        )

    async def run(self, content: bytes | Iterable[Json], **changes: Any) -> Json:
        """A batch of a new file, ended."""
        return await self.ended((await self.create(content, **changes))["id"])

    async def file(self, identifier: str | None) -> list[Json]:
        """The lines of a result file; none where there is none."""
        if identifier is None:
            return []
        answer = await self.http.get(f"/files/{identifier}/content")
        assert answer.status_code == 200, answer.text
        assert not answer.content or answer.content.endswith(b"\n")
        return [json.loads(text) for text in answer.content.splitlines()]

    async def proven(self, batch: Json, custom_ids: Iterable[str]) -> tuple[list[Json], list[Json]]:
        """The lines of the output file and the error file, in which each custom_id stands once."""
        output = await self.file(batch["output_file_id"])
        error = await self.file(batch["error_file_id"])
        found = Counter(item["custom_id"] for item in (*output, *error))
        assert found == Counter(custom_ids)
        assert batch["request_counts"]["total"] == len(output) + len(error)
        assert batch["request_counts"]["completed"] == len(output)
        assert all(item["response"]["status_code"] == 200 for item in output)
        assert all(
            item["error"] is not None or item["response"]["status_code"] >= 400 for item in error
        )
        names = [item["id"] for item in (*output, *error)]
        assert len(set(names)) == len(names)
        return output, error

    async def ask(self, method: str, path: str, **options: Any) -> Json:
        """The answer's object; what shall be retried is, as a stock client does."""
        for _ in range(RETRIES):
            answer = await self.http.request(method, path, **options)
            if answer.headers.get("x-should-retry") != "true":
                break
            await asyncio.sleep(RETRY_SECONDS)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found
