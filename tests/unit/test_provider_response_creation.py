"""What is created is admitted before, and taken back where another keeper has created it, too."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from carpool.ids import new_id
from db import provider_batches as steps
from db import provider_responses as responses
from db.provider_batches import LostError, Member
from workers.provider_batches.response_creation import Creation


async def test_one_too_many_is_let_go_of_also_where_the_batch_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = []

    async def unsent(*_: Any, **__: Any) -> list[Member]:
        return [Member(new_id(), 1, 0, 1, 0)]

    async def still_keep() -> None:
        raise LostError

    async def note_let_go(upstream: str, response: str, *, over: bool, kept: bool) -> None:
        let_go.append((response, over, kept))

    monkeypatch.setattr(responses, "unsent", unsent)
    fake: Any = SimpleNamespace(
        id=new_id(), upstream="theirs", database=None, responses=SimpleNamespace(let_go=note_let_go)
    )
    creation = Creation(fake, fake, fake, fake)
    creation.surplus.append("resp_1")
    with pytest.raises(LostError):
        await creation.create(still_keep)
    assert let_go == [("resp_1", False, False)]
    assert creation.surplus == []


async def test_what_has_no_equal_takes_nothing_of_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is known before the others are admitted, and handed back whatever the limits say."""
    odd, other = [Member(new_id(), 1, 0, 1, 0) for _ in range(2)]
    chat = b'{"model":"ours","messages":[{"role":"user","content":"Who?"}]'
    bodies = [(odd.id, chat + b',"seed":1}'), (other.id, chat + b"}")]
    admitted, released = [], []

    async def unsent(*_: Any, **__: Any) -> list[Member]:
        return [odd, other]

    async def found(*_: Any) -> list[tuple[UUID, bytes]]:
        return bodies

    async def still_keep() -> None:
        pass

    async def admit(upstream: str, wanted: int) -> int:
        admitted.append((upstream, wanted))
        return 0

    async def release(members: list[Member], *, verbatim: bool) -> None:
        released.append((members, verbatim))

    monkeypatch.setattr(responses, "unsent", unsent)
    monkeypatch.setattr(steps, "bodies", found)
    desk: Any = SimpleNamespace(
        database=None,
        responses=SimpleNamespace(admit=admit, let_go=None),
        backend=SimpleNamespace(groups_prompts=False),
    )
    batch: Any = SimpleNamespace(
        id=new_id(), model="ours", upstream="theirs", endpoint=0, window="8h"
    )
    rows: Any = SimpleNamespace(release=release)
    creation = Creation(desk, batch, rows, rows)
    assert await creation.create(still_keep) == []
    assert admitted == [("theirs", 1)]
    assert released == [([odd], True)]
    assert creation.limited
