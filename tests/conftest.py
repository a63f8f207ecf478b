"""Fixtures that tests with a real stack share."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.stack import Stack, stack_in_temporary_directory


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A whole Carpool with the simulated backend, shared by all tests that do it no harm."""
    with stack_in_temporary_directory() as started:
        yield started


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    """A stock client of the shared stack that does not retry."""
    with stack.client() as opened:
        yield opened


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    """The same, asynchronous."""
    async with stack.async_client() as opened:
        yield opened
