"""NUL bytes and lone surrogates, alone or among many, cost nobody else an answer.

Postgres takes neither in a text; one row that it refuses must not fail those stored with it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from carpool.ids import new_id
from db.database import Database
from db.group import GroupCommit
from db.keys import NewKey
from db.submit import Submission, submit
from tests.clients import CHAT, Requests, chat_head
from tests.stack import Json, Stack, eventually

GOOD = 200
TURNS = 20
ODD = {
    "NUL in a prompt": (b'"messages":[{"role":"user","content":"a\\u0000b"}]', b"", 400),
    "NUL in the user": (b'"messages":[{"role":"user","content":"x"}]', b',"user":"a\\u0000b"', 400),
    "only NUL in the user": (
        b'"messages":[{"role":"user","content":"x"}]',
        b',"user":"\\u0000"',
        400,
    ),
    "NUL in a field that is not ours": (
        b'"messages":[{"role":"user","content":"x"}]',
        b',"x":[{"\\\\\\u0000":1}]',
        400,
    ),
    "the name of NUL": (b'"messages":[{"role":"user","content":"a\\\\u0000b"}]', b"", 200),
    "a raw NUL": (b'"messages":[{"role":"user","content":"a\x00b"}]', b"", 400),
    "a high surrogate": (b'"messages":[{"role":"user","content":"a\\ud800b"}]', b"", 400),
    "a low surrogate": (b'"messages":[{"role":"user","content":"a\\udc00b"}]', b"", 400),
    "surrogates in the wrong order": (
        b'"messages":[{"role":"user","content":"\\udc00\\ud800"}]',
        b"",
        400,
    ),
    "a surrogate in the user": (
        b'"messages":[{"role":"user","content":"x"}]',
        b',"user":"\\ud800"',
        400,
    ),
    "a surrogate as UTF-8": (b'"messages":[{"role":"user","content":"\xed\xa0\x80"}]', b"", 400),
    "no UTF-8": (b'"messages":[{"role":"user","content":"\xff\xfe"}]', b"", 400),
    "half a character": (b'"messages":[{"role":"user","content":"\xe2\x82"}]', b"", 400),
    "a pair": (b'"messages":[{"role":"user","content":"\\ud83d\\ude97"}]', b"", 200),
}
MODELS = {b"simu\\u0000lated": 400, b"\\ud800": 400, b"\\u0000": 400, b"\xff": 400}


def bodies() -> list[tuple[bytes, int]]:
    """Every odd body with the status that it is to get."""
    odd = [
        (b'{"model":"simulated",%b%b}' % (messages, more), status)
        for messages, more, status in ODD.values()
    ]
    messages = msgspec.json.encode(CHAT["messages"])
    named = [
        (b'{"model":"%b","messages":%b}' % (model, messages), status)
        for model, status in MODELS.items()
    ]
    return odd + named


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("number", range(len(ODD) + len(MODELS)), ids=[*ODD, *map(str, MODELS)])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [None, "k"])
async def test_alone(requests: Requests, number: int, stream: bool, key: str | None) -> None:
    content, status = bodies()[number]
    headers = {} if key is None else {"idempotency-key": key}
    if stream:
        content = content[:-1] + b',"stream":true}'
    answer = await requests.http.post("/chat/completions", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    else:
        [stored] = await requests.ids()
        assert answer.headers["x-request-id"] == stored
    assert len(await requests.ids()) == (1 if status == 200 else 0)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("text", ["a\0b", "\0"])
async def test_nul_is_refused_in_every_form_of_text(requests: Requests, text: str) -> None:
    for path, body in (
        ("/completions", {"prompt": text}),
        ("/completions", {"prompt": [text, "b"], "stream": True}),
        ("/embeddings", {"input": [text]}),
        ("/chat/completions", {"messages": [{"role": text, "content": [{"text": text}]}]}),
    ):
        answer = await requests.http.post(path, json=CHAT | body)
        assert answer.status_code == 400
        assert "NUL" in answer.json()["error"]["message"]
    assert await requests.ids() == []


async def test_among_many_that_are_stored_together(
    stack: Stack, team: NewKey, requests: Requests
) -> None:
    """Two hundred good ones and all odd ones, in one transaction for want of a free lane."""
    odd = bodies()
    good = msgspec.json.encode(CHAT)
    step = GOOD // len(odd)
    sent = [(good, 200)] * GOOD
    for place, body in enumerate(odd):
        sent.insert(place * (step + 1), body)
    before = await _larger_groups(stack)
    async with AsyncExitStack() as connections:
        async with stack.locked("requests"):
            readers = []
            for content, _ in sent:
                reader, writer = await connections.enter_async_context(stack.connection())
                head = chat_head(
                    team.secret, f"content-length: {len(content)}", "connection: close"
                )
                writer.write(head + content)
                await writer.drain()
                readers.append(reader)
            await eventually(stack.blocked)
            for _ in range(TURNS):  # each lets the API read what was sent before it
                await requests.http.get("/models")
        answers = await asyncio.gather(*(reader.read() for reader in readers))
    statuses = [int(answer.split(b" ", 2)[1]) for answer in answers]
    assert statuses == [status for _, status in sent]
    assert await _larger_groups(stack) > before


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[Database]:
    async with stack.database() as opened:
        yield opened


@pytest.mark.parametrize("person", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
async def test_a_row_that_postgres_refuses_fails_alone(
    stack: Stack, team: NewKey, database: Database, person: str
) -> None:
    """Whatever slips through the checks before: a full group, one bad row in its midst."""
    await stack.route("parked", "nowhere")
    [key] = await stack.fetch("select id, team_id from keys where id = $1", team.id)
    group = GroupCommit(database, submit, limit=256, lanes=1)
    items = [
        _submission(key["team_id"], key["id"], person if number == GOOD // 2 else None)
        for number in range(GOOD + 1)
    ]
    futures = [group.put(item) for item in items]
    group.start()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    await group.close()
    bad = outcomes.pop(GOOD // 2)
    assert isinstance(bad, asyncpg.PostgresError | asyncpg.InterfaceError)
    assert outcomes == [None] * GOOD
    stored = "select count(*) from requests r join queue q using (id) where r.team_id = $1"
    assert await stack.value(stored, key["team_id"]) == GOOD
    await stack.fetch("delete from queue where team_id = $1", key["team_id"])


def _submission(team_id: int, key_id: UUID, person: str | None) -> Submission:
    return Submission(
        id=new_id(),
        team_id=team_id,
        key_id=key_id,
        person=person,
        service_class=0,
        endpoint=0,
        model="parked",
        streamed=False,
        body=b"{}",
        fingerprint=new_id(),
        share=0,
        prefix_key=0,
    )


async def _larger_groups(stack: Stack) -> int:
    """How many transactions of the API have stored more than 128 requests."""
    async with httpx.AsyncClient() as http:
        figures = (await http.get(f"{stack.root_url}/metrics")).text
    counts: Json = {}
    for line in figures.splitlines():
        if line.startswith('carpool_group_commit_size_bucket{group="submit"'):
            counts[line.partition('le="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    return int(counts.get("+Inf", 0) - counts.get("128.0", 0))
