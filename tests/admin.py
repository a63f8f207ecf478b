"""The admin API over bare HTTP, for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from db.keys import create_key
from tests.stack import Json, Stack


class Admin:
    """Asks with one key; AssertionError for an answer of another status than is expected."""

    def __init__(self, http: httpx.AsyncClient, root: str) -> None:
        self.http = http
        self._root = f"{root}/admin/v1"

    async def send(
        self, method: str, path: str, query: Json | None = None, *, expected: int = 200
    ) -> httpx.Response:
        """The answer."""
        answer = await self.http.request(method, f"{self._root}{path}", params=query)
        assert answer.status_code == expected, answer.text
        return answer

    async def ask(
        self, method: str, path: str, query: Json | None = None, *, expected: int = 200
    ) -> Json:
        """The answer's object."""
        found: Json = (await self.send(method, path, query, expected=expected)).json()
        return found

    async def get(self, path: str, **query: Any) -> Json:
        return await self.ask("GET", path, query)

    async def all(self, path: str, **query: Any) -> list[Json]:
        """All of a list, page by page."""
        found: list[Json] = []
        while True:
            page = await self.get(path, **query)
            found += page["data"]
            if not page["has_more"]:
                return found
            query["after"] = page["last_id"]

    async def ids(self, path: str, **query: Any) -> list[str]:
        """The ids of all of a list."""
        return [item["id"] for item in await self.all(path, **query)]


@asynccontextmanager
async def admin_of(stack: Stack, *, sees_bodies: bool = False) -> AsyncIterator[Admin]:
    """An admin of the stack, who sees bodies or does not."""
    async with stack.database() as database:
        key = await create_key(
            database, team="admins", name="test", admin=True, sees_bodies=sees_bodies
        )
    async with stack.http(key.secret) as http:
        yield Admin(http, stack.root_url)
