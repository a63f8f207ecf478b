"""Fixtures that tests of several modules share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from db.keys import NewKey
from tests.admin import Admin, admin_of
from tests.batches import Batches
from tests.double.launch import Double, serving
from tests.integration.savings import TERRA
from tests.integration.savings import admin as admins_http
from tests.integration.stored_files import Files
from tests.integration.work import Work
from tests.stack import Stack

if TYPE_CHECKING:
    from tests.integration.db_fixtures import Bench


@pytest.fixture
async def batches(stack: Stack, team: NewKey) -> AsyncIterator[Batches]:
    """The batches of the test's own team."""
    async with stack.http(team.secret) as http:
        yield Batches(http)


@pytest.fixture
async def admin(stack: Stack) -> AsyncIterator[Admin]:
    """An admin who does not see bodies."""
    async with admin_of(stack) as made:
        yield made


@pytest.fixture
async def reader(stack: Stack) -> AsyncIterator[Admin]:
    """An admin who does."""
    async with admin_of(stack, sees_bodies=True) as made:
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the team that only this test uses."""
    found: str = request.node.nodeid
    return found


@pytest.fixture
def work(stack: Stack, team: NewKey, tmp_path: Path) -> Work:
    """A directory of the test's own team."""
    return Work(tmp_path, stack.base_url, team.secret)


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The URL of a provider's double."""
    with serving() as url:
        yield url


@pytest_asyncio.fixture
async def double(served: str) -> AsyncIterator[Double]:
    """That double's control; it is as new at each test."""
    async with Double(url=served) as attached:
        yield attached


@pytest.fixture
async def terra(stack: Stack) -> None:
    """The price of COMPAT section 5."""
    async with admins_http(stack) as client:
        answer = await client.put("/admin/v1/prices", json=TERRA)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def files(bench: "Bench", tmp_path: Path) -> Files:
    """A store of the test's own, with rows in its own database."""
    return Files(bench, tmp_path)
