"""x"""
from openai import AsyncOpenAI, OpenAI


def test_sync(client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["simulated"]


async def test_async(async_client: AsyncOpenAI) -> None:
    a = await async_client.chat.completions.create(model="simulated", messages=[{"role":"user","content":"hi"}])
    print(a)
    assert a.choices
