"""`/v1/models` names every model that a route names, whatever characters its name has."""

from collections.abc import AsyncIterator

import pytest
from openai import NotFoundError

from db.routes import delete_route
from tests.clients import Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")

ODD = "org/m:1 of today"


@pytest.fixture
async def odd_model(stack: Stack) -> AsyncIterator[str]:
    """A model whose name must be encoded in a URL, routed while everything runs."""
    await stack.route(ODD, "simulated")
    yield ODD
    async with stack.database() as database:
        await delete_route(database, ODD, actor="test")
    await stack.announce_change()
    async with stack.http() as http:

        async def forgotten() -> bool:
            return ODD not in [model["id"] for model in (await http.get("/models")).json()["data"]]

        await eventually(forgotten)  # the next test must not take this route for its own


async def test_models_are_listed(stock: Stock) -> None:
    models = await stock(lambda client: client.models.list())
    found = {model.id: model for model in models}
    assert found["simulated"].object == "model"
    assert isinstance(found["simulated"].created, int)
    assert found["simulated"].owned_by


async def test_a_model_is_retrieved_by_its_encoded_name(stock: Stock, odd_model: str) -> None:
    found = await stock(lambda client: client.models.retrieve(odd_model))
    assert (found.id, found.object) == (odd_model, "model")


async def test_a_new_route_serves(stock: Stock, odd_model: str) -> None:
    answer = await stock(
        lambda client: client.chat.completions.create(
            model=odd_model, messages=[{"role": "user", "content": "Hello"}]
        )
    )
    assert answer.model == odd_model


@pytest.mark.parametrize("name", ["nowhere", "no/where", "\x00", "ü", "a" * 5000])
async def test_an_unknown_model_is_not_found(stock: Stock, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await stock(lambda client: client.models.retrieve(name))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.request_id
