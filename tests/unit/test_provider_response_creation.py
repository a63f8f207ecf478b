"""A keeper that finds its provider batch kept by another leaves nothing of its own behind."""

from types import SimpleNamespace
from typing import Any

import pytest

from carpool.ids import new_id
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

    async def note_let_go(response: str, *, over: bool, kept: bool) -> None:
        let_go.append((response, over, kept))

    monkeypatch.setattr(responses, "unsent", unsent)
    fake: Any = SimpleNamespace(
        id=new_id(), database=None, responses=SimpleNamespace(let_go=note_let_go)
    )
    creation = Creation(fake, fake, fake, fake)
    creation.surplus.append("resp_1")
    with pytest.raises(LostError):
        await creation.create(still_keep)
    assert let_go == [("resp_1", False, False)]
    assert creation.surplus == []
