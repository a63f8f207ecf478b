"""One Carpool with two backends, one browser, and visits of an admin with and without the scope."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from db.keys import create_key
from tests.browser.chromium import Visit, chromium, visiting
from tests.stack import Stack, stack_in_temporary_directory

FIRST, SECOND = "first", "second"
CONFIG = """
[backends.first]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[backends.second]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[models.simulated]
backends = ["first"]

[models.switched]
backends = ["first"]
"""


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Carpool to visit; a test leaves its first routes and its workers as it found them."""
    config: Path = tmp_path_factory.mktemp("browser") / "carpool.toml"
    config.write_text(CONFIG)
    with stack_in_temporary_directory(options=("--config", str(config))) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser's process, shared; each visit has a profile of its own."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reader_key(house: Stack) -> str:
    """An admin's who sees bodies."""
    async with house.database() as database:
        made = await create_key(
            database, team="admins", name="reader", admin=True, sees_bodies=True
        )
    return made.secret


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, house: Stack) -> AsyncIterator[Visit]:
    """An admin's who does not see bodies, signed in, at the overview."""
    async with visiting(browser, house.root_url, key=house.admin_key) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def reader(browser: Browser, house: Stack, reader_key: str) -> AsyncIterator[Visit]:
    """The same by one who sees bodies."""
    async with visiting(browser, house.root_url, key=reader_key) as opened:
        yield opened
