"""One process of the double for all of its tests, fresh for each; the stock client at it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from tests.double.launch import Double, serving

KEY = "sk-test"


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    with serving(name="first") as url:
        yield url


@pytest.fixture
async def double(served: str) -> AsyncIterator[Double]:
    async with Double(url=served) as double:
        yield double


@pytest.fixture
async def client(double: Double) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=double.url, api_key=KEY, max_retries=0) as client:
        yield client
