"""A key is its team's: made and revoked while everything runs, stored as a hash alone."""

import time

import pytest
from openai import APIStatusError, AsyncOpenAI, AuthenticationError, OpenAI

from api.auth import REMEMBER_SECONDS
from db.keys import hash_of, revoke_key
from tests.clients import CHAT
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

ROW = """
select r.person, r.class, r.team_id, r.key_id from requests r join keys k on k.id = r.key_id
where k.hash = $1
"""


async def test_a_new_key_works_at_once(stack: Stack) -> None:
    key = await stack.new_key("newcomers")
    async with stack.async_client(api_key=key.secret) as client:
        assert (await client.chat.completions.create(**CHAT)).choices


async def test_of_a_key_only_a_hash_is_stored(stack: Stack) -> None:
    key = await stack.new_key("newcomers")
    [row] = await stack.fetch("select * from keys where id = $1", key.id)
    assert row["hash"] == hash_of(key.secret)
    assert key.secret not in repr(row)
    assert key.secret not in stack.output()


async def test_a_revoked_key_stops_within_the_time_that_it_is_remembered(stack: Stack) -> None:
    key = await stack.new_key("leavers")
    async with stack.async_client(api_key=key.secret) as client:
        await client.models.list()
        await _revoke(stack, key.secret)
        revoked = time.monotonic()

        async def refused() -> bool:
            asked = time.monotonic()
            found = await _refused(client)
            assert found or asked - revoked < REMEMBER_SECONDS
            return found

        await eventually(refused)


async def test_a_revoked_key_stops_as_soon_as_the_change_is_announced(stack: Stack) -> None:
    key = await stack.new_key("leavers")
    async with stack.async_client(api_key=key.secret) as client:
        began = time.monotonic()
        await client.models.list()
        await _revoke(stack, key.secret)
        await stack.announce_change()
        await eventually(lambda: _refused(client))
        assert time.monotonic() - began < REMEMBER_SECONDS, "it was forgotten, and not revoked"
        before = await stack.value("select count(*) from requests")
        with pytest.raises(AuthenticationError):
            await client.chat.completions.create(**CHAT)
        assert await stack.value("select count(*) from requests") == before


async def test_another_key_of_the_team_outlives_a_revoked_one(stack: Stack) -> None:
    first, second = await stack.new_key("pair"), await stack.new_key("pair")
    await _revoke(stack, first.secret)
    async with stack.async_client(api_key=second.secret) as client:
        assert (await client.chat.completions.create(**CHAT)).choices


@pytest.mark.parametrize(
    ("owner", "user", "person"),
    [
        (None, None, None),
        (None, "ann", "ann"),
        ("bob", None, "bob"),
        ("bob", "ann", "bob"),
        (None, "", None),
        (None, "n" * 1000, "n" * 255),
        (None, "\U0001f697 Jörg", "\U0001f697 Jörg"),
    ],
    ids=range(7),
)
async def test_a_request_is_its_persons(
    stack: Stack, owner: str | None, user: str | None, person: str | None
) -> None:
    """The key's owner, else the body's user (DESIGN.md, 'Words')."""
    key = await stack.new_key("persons", owner=owner)
    async with stack.async_client(api_key=key.secret) as client:
        await client.chat.completions.create(**CHAT, extra_body={"user": user})
    [row] = await stack.fetch(ROW, hash_of(key.secret))
    assert (row["person"] or None) == person
    assert row["key_id"] == key.id


@pytest.mark.parametrize(
    ("tier", "service_class"),
    [(None, 0), ("auto", 0), ("default", 0), ("flex", 1), ("scale", 0), ("priority", 0)],
)
async def test_a_request_is_of_its_tiers_class(
    stack: Stack, tier: str | None, service_class: int
) -> None:
    key = await stack.new_key("tiers")
    async with stack.async_client(api_key=key.secret) as client:
        answer = await client.chat.completions.create(**CHAT, extra_body={"service_tier": tier})
    assert answer.choices
    [row] = await stack.fetch(ROW, hash_of(key.secret))
    assert row["class"] == service_class


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Basic abc", "Bearer wrong", "Bearer sk-carpool-\xff", "wrong"],
    ids=range(7),
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat/completions"),
        ("POST", "/completions"),
        ("POST", "/embeddings"),
        ("GET", "/models"),
        ("GET", "/models/simulated"),
        ("GET", "/requests"),
        ("GET", "/requests/req_1"),
        ("GET", "/requests/req_1/events"),
        ("DELETE", "/requests/req_1"),
    ],
)
async def test_without_a_key_there_is_nothing(
    stack: Stack, method: str, path: str, authorization: str | None
) -> None:
    before = await stack.value("select count(*) from requests")
    async with stack.http() as http:
        del http.headers["authorization"]
        headers = {} if authorization is None else {b"authorization": authorization.encode()}
        answer = await http.request(method, path, headers=headers, json=CHAT)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert await stack.value("select count(*) from requests") == before


async def test_the_stock_client_raises_what_openai_makes_it_raise(stack: Stack) -> None:
    with (
        OpenAI(base_url=stack.base_url, api_key="sk-wrong", max_retries=5) as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert isinstance(caught.value, APIStatusError)
    assert caught.value.request_id
    assert "sk-wrong" not in caught.value.message


async def _refused(client: AsyncOpenAI) -> bool:
    try:
        await client.models.list()
    except AuthenticationError as error:
        return error.code == "invalid_api_key"
    return False


async def _revoke(stack: Stack, secret: str) -> None:
    async with stack.database() as database:
        assert await revoke_key(database, secret)
