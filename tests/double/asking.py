"""What the double's tests ask it: a chat, and batches of chats."""

import json
from collections.abc import Iterable
from typing import Any, Literal

from openai import AsyncOpenAI, AsyncStream
from openai.types import Batch
from openai.types.chat import ChatCompletion, ChatCompletionChunk

Json = dict[str, Any]
MODEL = "gpt-6-luna"
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


def body(text: str, **changes: Any) -> Json:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]} | changes


def line(custom_id: str, **changes: Any) -> Json:
    made = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body(custom_id)}
    return made | changes


def jsonl(lines: Iterable[Json]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


async def ask(client: AsyncOpenAI, text: str, **changes: Any) -> ChatCompletion:
    """A chat over the stock client."""
    answer: ChatCompletion = await client.chat.completions.create(**body(text, **changes))
    return answer


async def stream(
    client: AsyncOpenAI, text: str, **changes: Any
) -> AsyncStream[ChatCompletionChunk]:
    """A chat of which nothing has been read yet."""
    return await client.chat.completions.create(**body(text, **changes), stream=True)


async def upload(client: AsyncOpenAI, content: bytes | Iterable[Json]) -> str:
    data = content if isinstance(content, bytes) else jsonl(content)
    return (await client.files.create(file=("in.jsonl", data), purpose="batch")).id


async def create(client: AsyncOpenAI, lines: bytes | Iterable[Json] | int, **changes: Any) -> Batch:
    """A batch of these lines, or of so many alike, ``r0`` to the last."""
    made = [line(f"r{n}") for n in range(lines)] if isinstance(lines, int) else lines
    asked: Json = {
        "input_file_id": await upload(client, made),
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    batch: Batch = await client.batches.create(**asked | changes)
    return batch


async def entries(client: AsyncOpenAI, file_id: str | None) -> list[Json]:
    """The lines of an output or error file; none where there is no file."""
    if file_id is None:
        return []
    content = (await client.files.content(file_id)).content
    return [json.loads(one) for one in content.splitlines()]


async def ids(client: AsyncOpenAI, file_id: str | None) -> list[str]:
    """The custom_ids of a file, sorted."""
    return sorted(entry["custom_id"] for entry in await entries(client, file_id))
