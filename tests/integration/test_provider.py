"""What is ours at a provider is found again, whatever else is there."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from carpool.ids import new_id
from carpool.settings import OpenAIBatchSettings
from db.provider_batches import ProviderBatch
from tests.double.launch import Double
from workers.provider_batches import provider as module
from workers.provider_batches.provider import Provider

PAGE = 2
PATH = "/v1/chat/completions"


@pytest_asyncio.fixture
async def provider(double: Double, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    """One whose pages hold two."""
    monkeypatch.setattr(module, "PAGE", PAGE)
    settings = {"kind": "openai_batch", "base_url": double.url, "api_key": "sk-any"}
    made = Provider("patient", OpenAIBatchSettings.model_validate(settings))
    try:
        yield made
    finally:
        await made.close()


def batch(*, identifier: UUID | None = None, hours_ago: float = 0) -> ProviderBatch:
    """One whose file was uploaded."""
    return ProviderBatch(
        id=identifier or new_id(),
        backend="patient",
        model="ours",
        upstream="theirs",
        endpoint=0,
        window="24h",
        reason="It is cheap.",
        state=1,
        deadline=None,
        lines=1,
        bytes=1,
        tokens=1,
        input_file="file-1",
        provider_id=None,
        provider_status=None,
        output_file=None,
        error_file=None,
        created_at=datetime.now(UTC) - timedelta(hours=hours_ago),
        submitted_at=None,
    )


async def listings(double: Double) -> int:
    """How many pages of batches were asked for."""
    return len((await double.seen()).of("/v1/batches", "GET"))


async def test_a_batch_is_found_behind_however_many_newer_ones(
    double: Double, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be created again: though there are more pages than are looked at for files."""
    monkeypatch.setattr(module, "PAGES", 2)
    mine = batch()
    made = await provider.create(mine, PATH)
    for _ in range(4 * PAGE):
        await provider.create(batch(), PATH)
    assert [seen.id for seen in await provider.created(mine)] == [made.id]


async def test_batches_much_older_than_ours_are_not_looked_at(
    double: Double, provider: Provider
) -> None:
    """An account's history is long; what was created before ours was gathered is not ours."""
    old = batch()
    for _ in range(4 * PAGE):
        await provider.create(old, PATH)
    await double.advance(10 * 3600)
    assert await provider.created(batch(hours_ago=-10)) == []
    assert await listings(double) == 1
    assert len(await provider.created(old)) == 4 * PAGE


async def test_a_list_that_begins_anew_for_ever_is_left(double: Double, provider: Provider) -> None:
    """As that of a server that does not know the cursor."""
    page = {"data": [{"id": "batch_1", "status": "completed"}], "has_more": True}
    await double.fault("/v1/batches", method="GET", times=None, status=200, body=page)
    assert await provider.created(batch()) == []
    assert await listings(double) == 2
