"""A file holds a line for each member, in order, within every limit; what is left out is told."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.ids import new_id
from db.provider_batches import Member, ProviderBatch
from workers.provider_batches import batch_file
from workers.provider_batches.batch_file import (
    Contents,
    Limits,
    custom_id,
    line_of,
    parse_custom_id,
    tokens_of,
    write,
)

PLENTY = Limits(lines=1000, bytes=10_000_000)
BODY = b'{"model":"ours","messages":[{"role":"user","content":"Who is there?"}]}'


def provider_batch(**changes: Any) -> ProviderBatch:
    """One of chats, `ours` here and `theirs` there."""
    values: dict[str, Any] = {
        "id": new_id(),
        "backend": "patient",
        "model": "ours",
        "upstream": "theirs",
        "endpoint": 0,
        "window": "24h",
        "reason": "",
        "state": 0,
        "deadline": None,
        "lines": 0,
        "bytes": 0,
        "tokens": 0,
        "input_file": None,
        "provider_id": None,
        "provider_status": None,
        "output_file": None,
        "error_file": None,
        "created_at": datetime.now(UTC),
        "submitted_at": None,
    }
    return ProviderBatch(**(values | changes))


def member(epoch: int = 1, attempts: int = 0) -> Member:
    return Member(new_id(), epoch, attempts, 7, 0)


async def written(
    sizes: Sequence[int], limits: Limits, most: Limits = PLENTY, page: int = 1000
) -> tuple[list[Member], list[Any], Contents]:
    """Members with bodies of these sizes, the lines that were written, and what is told of them."""
    members = [member() for _ in sizes]
    texts = {
        m.id: b'{"model":"ours","input":"%b"}' % (b"x" * size)
        for m, size in zip(members, sizes, strict=True)
    }

    async def bodies(ids: Sequence[UUID]) -> list[tuple[UUID, bytes]]:
        return [(identifier, texts[identifier]) for identifier in ids[:page]]

    file = io.BytesIO()
    contents = await write(
        file, provider_batch(endpoint=2), members, bodies, limits=limits, most=most
    )
    assert len(file.getvalue()) == contents.bytes
    return members, [json.loads(text) for text in file.getvalue().splitlines()], contents


def test_a_line_has_our_id_the_upstream_model_and_nothing_of_live_calls() -> None:
    asked = {
        "model": "ours",
        "messages": [{"role": "user", "content": "é\n"}],
        "stream": False,
        "stream_options": None,
        "service_tier": "flex",
        "unknown": 1.50,
    }
    one = member(epoch=3)
    line = json.loads(line_of(one, json.dumps(asked).encode(), provider_batch()))
    assert line == {
        "custom_id": f"{one.id.hex}.3",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "theirs", "messages": asked["messages"], "unknown": 1.5},
    }


@pytest.mark.parametrize("space", [{"indent": 2}, {"separators": (",\r\n", ":\r")}])
def test_a_body_over_several_lines_becomes_one_line(space: dict[str, Any]) -> None:
    body = json.dumps(json.loads(BODY), **space).encode()
    line = line_of(member(), body, provider_batch())
    assert len(line.splitlines()) == 1
    assert json.loads(line)["body"]["messages"] == json.loads(BODY)["messages"]


def test_a_cache_key_is_set_where_live_calls_have_one() -> None:
    line = json.loads(line_of(member(), BODY, provider_batch(), group=True))
    assert line["body"]["prompt_cache_key"].startswith("carpool-7-")
    assert "prompt_cache_key" not in json.loads(line_of(member(), BODY, provider_batch()))["body"]


@given(st.uuids(), st.integers(min_value=0, max_value=2**31 - 1))
def test_a_custom_id_names_request_and_claim(identifier: UUID, epoch: int) -> None:
    assert parse_custom_id(custom_id(Member(identifier, epoch, 0, 1, 0))) == (identifier, epoch)


@given(st.text())
def test_what_is_no_custom_id_of_ours_is_none(text: str) -> None:
    found = parse_custom_id(text)
    assert found is None or "." in text


@given(
    st.lists(st.integers(min_value=0, max_value=400), max_size=30),
    st.integers(min_value=1, max_value=20),
    st.integers(min_value=300, max_value=4000),
    st.one_of(st.none(), st.integers(min_value=0, max_value=500)),
    st.integers(min_value=1, max_value=7),
)
async def test_no_limit_is_passed_and_no_member_forgotten(
    sizes: list[int], lines: int, size: int, tokens: int | None, page: int
) -> None:
    """The first that fit are written, in their order; all others are told as left."""
    limits = Limits(lines=lines, bytes=size, tokens=tokens)
    members, found, contents = await written(sizes, limits, page=page)
    assert contents.lines == len(found) <= lines
    assert contents.bytes <= size
    assert tokens is None or contents.tokens <= tokens
    names = [line["custom_id"] for line in found]
    assert names == [custom_id(m) for m in members[: len(found)]]
    assert contents.left == members[len(found) :]
    assert not contents.refused


async def test_it_is_full_only_when_the_next_would_pass_a_limit() -> None:
    room = 3 * tokens_of(b'{"model":"ours","input":"%b"}' % (b"x" * 100))
    limits = Limits(lines=10, bytes=10_000, tokens=room)
    _, found, contents = await written([100] * 5, limits)
    assert (len(found), len(contents.left), contents.tokens) == (3, 2, room)


async def test_what_no_file_can_hold_is_refused_and_the_rest_goes() -> None:
    most = Limits(lines=10, bytes=500, tokens=50)
    members, found, contents = await written([10, 5000, 10, 200], PLENTY, most=most)
    assert [line["custom_id"] for line in found] == [custom_id(members[0]), custom_id(members[2])]
    assert [(refused, fault.code) for refused, fault in contents.refused] == [
        (members[1], "invalid_request"),
        (members[3], "token_limit_exceeded"),
    ]


@pytest.mark.parametrize(("alone", "lines"), [(True, 1), (False, 0)])
async def test_what_passes_the_room_for_tokens_goes_alone_or_waits(alone: bool, lines: int) -> None:
    """Its size is an estimate: whether it is too large, the provider says."""
    limits = Limits(lines=10, bytes=10_000, tokens=50, alone=alone)
    members, found, contents = await written([400, 10], limits)
    assert len(found) == lines
    assert contents.left == members[lines:]


async def test_many_pages_become_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "PAGE_ROWS", 3)
    members, found, _ = await written([1] * 11, PLENTY, page=2)
    assert [line["custom_id"] for line in found] == [custom_id(m) for m in members]
