"""A batch is created once, and is not where its creation is wrong."""

import asyncio
from typing import Any

import pytest
from openai import BadRequestError

from tests.batches import URL, Batches, Json, lines
from tests.clients import Stock
from tests.stack import Stack, eventually

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"endpoint": "/v1/nothing"}, "endpoint", "invalid_value"),
        ({"endpoint": 7}, "endpoint", "invalid_type"),
        ({"endpoint": None}, "endpoint", "invalid_type"),
        ({"completion_window": "soon"}, "completion_window", "invalid_value"),
        ({"completion_window": "31d"}, "completion_window", "invalid_value"),
        ({"completion_window": 24}, "completion_window", "invalid_type"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_type"),
        (
            {"output_expires_after": {"seconds": 3600}},
            "output_expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
        (
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            "output_expires_after.anchor",
            "invalid_value",
        ),
        ({"priority": 101}, "priority", "invalid_value"),
        ({"priority": "high"}, "priority", "invalid_type"),
        ({"input_file_id": 7}, "input_file_id", "invalid_type"),
    ],
    ids=range(16),
)
async def test_a_creation_that_is_wrong(stock: Stock, changes: Json, param: str, code: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": URL, "completion_window": "24h"} | changes
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.post("/batches", cast_to=object, body=body))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert await stock(lambda c: c.batches.list()) == []


@pytest.mark.parametrize("missing", ["input_file_id", "endpoint", "completion_window"])
async def test_a_creation_without(stock: Stock, missing: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": URL, "completion_window": "24h"}
    del body[missing]
    with pytest.raises(BadRequestError) as caught:
        await stock(lambda c: c.post("/batches", cast_to=object, body=body))
    assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")
    assert caught.value.message.endswith(f"Missing required parameter: '{missing}'.")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"])
async def test_a_creation_that_is_no_object(batches: Batches, content: bytes) -> None:
    answer = await batches.http.post("/batches", content=content)
    assert answer.status_code == 400


async def test_a_retry_of_the_creation_gets_the_batch_that_nobody_was_told_of(
    stack: Stack, batches: Batches
) -> None:
    file = await batches.upload(lines(1))
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
    noted = "select true from deliveries where id = $1::uuid"
    forget = "delete from deliveries where id = $1::uuid returning true"

    async def send(retry: str) -> str:
        headers = {"x-stainless-retry-count": retry}
        answer = await batches.http.post("/batches", json=body, headers=headers)
        return str(answer.json()["id"])

    async def told(batch: str, query: str = noted) -> None:
        await eventually(lambda: stack.value(query, batch.removeprefix("batch_")))

    first = await send("0")
    await told(first)
    second = await send("1")
    assert second != first
    await told(second)
    forgotten = await send("0")
    await told(forgotten, forget)
    assert await send("0") != forgotten
    assert await send("1") == forgotten


async def test_a_key_names_one_batch(batches: Batches) -> None:
    file = await batches.upload(lines(1))
    body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}

    async def send(key: str, **changes: str) -> Any:
        return await batches.http.post(
            "/batches", json=body | changes, headers={"Idempotency-Key": key}
        )

    answers = await asyncio.gather(*(send("k") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    names = {answer.json()["id"] for answer in answers}
    assert len(names) == 1
    assert (await send("other")).json()["id"] not in names
    assert (await send("k", completion_window="2h")).status_code == 422
    assert (await send("")).status_code == 400
    assert len((await batches.ask("GET", "/batches"))["data"]) == 2
