"""A provider that answers at once, always the same: bare Starlette, the ceiling of the others.

`python -m tests.benchmarks.fake_provider PORT` serves it on the loopback.
"""

import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

WORDS = ("together", " they", " share", " what", " each", " would", " pay", " for")
_HEAD = {"id": "chatcmpl-fake", "created": 1, "model": "simulated"}


def _completion() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    usage = {"prompt_tokens": 150, "completion_tokens": 8, "total_tokens": 158}
    whole = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


def _chunks() -> list[bytes]:
    deltas = [{"role": "assistant", "content": word} for word in WORDS]
    choices: list[dict[str, object]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "length"})
    return [
        b"data: %b\n\n"
        % json.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}).encode()
        for choice in choices
    ]


COMPLETION = _completion()
EVENTS = (*_chunks(), b"data: [DONE]\n\n")


async def chat(request: Request) -> Response:
    """Answer whole, or as nine chunks."""
    if json.loads(await request.body()).get("stream"):
        return StreamingResponse(_events(), media_type="text/event-stream")
    return Response(COMPLETION, media_type="application/json")


async def models(request: Request) -> Response:
    """By which a starter sees that it serves."""
    return Response(b'{"object":"list","data":[]}', media_type="application/json")


async def _events() -> AsyncIterator[bytes]:
    for event in EVENTS:
        yield event


app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
