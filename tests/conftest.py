"""Fixtures that tests with a real stack share."""

import signal
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
from openai import AsyncOpenAI, OpenAI

from db.keys import NewKey
from tests import prepared_postgres
from tests.clients import Requests, Stock
from tests.stack import Stack, stack_in_temporary_directory

HASTY = {
    "CARPOOL_GRACE_SECONDS": "0.5",
    "CARPOOL_STALL_SECONDS": "1",
    "CARPOOL_POLL_SECONDS": "0.2",
    "CARPOOL_STREAM_HOLD_SECONDS": "0.2",
    "CARPOOL_STREAM_HEARTBEAT_SECONDS": "0.2",
}
# How long an example takes is the machine's affair: it may be held up in the middle of any.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")
# Tests that were started in the background ignore it, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ALARMS = (
    "Traceback",
    "unhandled_error",
    "backend_bug",
    "job_bug",
    "group_failed",
    "process_failed",
    "thread_failed",
    "never retrieved",
)


@pytest.fixture(scope="session", autouse=True)
def _prepared_once() -> Iterator[None]:
    yield
    prepared_postgres.forget()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A whole Carpool with the simulated backend, shared by all tests that do it no harm."""
    with stack_in_temporary_directory() as started:
        yield started


@pytest.fixture(scope="session")
def hasty_stack() -> Iterator[Stack]:
    """The same with so little patience that tests can see where it ends."""
    with stack_in_temporary_directory(HASTY) as started:
        yield started


@pytest.fixture
def quiet(stack: Stack) -> Iterator[None]:
    """No process of the shared stack reports a bug of its own during the test."""
    before = len(stack.output())
    yield
    printed = stack.output()[before:]
    assert not [alarm for alarm in ALARMS if alarm in printed], printed


@pytest.fixture
async def team(stack: Stack, request: pytest.FixtureRequest) -> NewKey:
    """The key of a team that only this test uses, on the shared stack."""
    return await stack.new_key(request.node.nodeid)


@pytest.fixture
async def strangers(stack: Stack, request: pytest.FixtureRequest) -> NewKey:
    """The key of another such team."""
    return await stack.new_key(f"strangers to {request.node.nodeid}")


@pytest.fixture
def client(stack: Stack, team: NewKey) -> Iterator[OpenAI]:
    """A stock client of that team that does not retry."""
    with stack.client(api_key=team.secret) as opened:
        yield opened


@pytest.fixture
async def async_client(stack: Stack, team: NewKey) -> AsyncIterator[AsyncOpenAI]:
    """The same, asynchronous."""
    async with stack.async_client(api_key=team.secret) as opened:
        yield opened


@pytest.fixture(params=["sync", "async"])
def stock(request: pytest.FixtureRequest) -> Stock:
    """Both kinds of client, one after the other, behind one way of asking."""
    kind = "client" if request.param == "sync" else "async_client"
    return Stock(request.getfixturevalue(kind))


@pytest.fixture
async def requests(stack: Stack, team: NewKey) -> AsyncIterator[Requests]:
    """`/v1/requests` of that team."""
    async with stack.http(team.secret) as http:
        yield Requests(http)


@pytest.fixture
async def parked(stack: Stack) -> str:
    """A model of the shared stack whose backend is never up: its requests wait."""
    await stack.route("parked", "nowhere")
    return "parked"
