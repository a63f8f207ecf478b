"""A small provider over HTTP that behaves like OpenAI, and misbehaves on request.

Each model name is a manner: ``good`` answers, ``limited`` says 429, ``html`` answers with a page.
What it was asked stands in ``requests``, how many requests it holds in ``open``,
the ports that they came from in ``clients``.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]

KEY = "sk-test-0123456789abcdef"
CONTEXT_TOKENS = 2048
CACHED_TOKENS = 2
WORDS = ["carpool", " takes", " the", " prompts", " of", " a", " whole", " team"]
PAGE = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
MESSAGE_429 = "Rate limit reached for requests"


class Provider:
    """The server; ``async with`` starts and ends it."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.open = 0
        self.clients: set[int] = set()
        self.key = KEY
        self.url = ""
        app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_keep_alive=30)
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Provider":
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        # `_serve` is `serve` without the signal handlers, which belong to the tests' own process.
        self._task = asyncio.create_task(self._server._serve([listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        if self._task is not None:
            await self._task

    async def _models(self, request: Request) -> Response:
        if refused := self._unauthorized(request):
            return refused
        return JSONResponse({"object": "list", "data": [{"id": "good", "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, _Chat)

    async def _completions(self, request: Request) -> Response:
        return await self._generate(request, _Text)

    async def _embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        if refused := self._unauthorized(request) or _misbehave(body):
            return refused
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [
            {"object": "embedding", "index": i, "embedding": [0.6, 0.8]} for i in range(len(inputs))
        ]
        usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
        return JSONResponse(
            {"object": "list", "data": data, "model": body["model"] + "-2026", "usage": usage}
        )

    async def _generate(self, request: Request, shape: "Callable[[Json], _Shape]") -> Response:
        body = await request.json()
        self.requests.append(body)
        if refused := self._unauthorized(request) or _misbehave(body):
            return refused
        if {"messages", "prompt"}.isdisjoint(body):
            return _error(400, "Missing required parameter: 'messages'.", None, "messages")
        made = shape(body)
        if made.prompt_tokens > CONTEXT_TOKENS:
            return _error(400, "Your prompt is too long.", "context_length_exceeded", "messages")
        self.open += 1
        if body.get("stream"):
            return StreamingResponse(self._frames(body, made), media_type="text/event-stream")
        try:
            if body["model"] == "slow":
                await _gone(request)
            return JSONResponse(made.whole())
        finally:
            self.open -= 1

    async def _frames(self, body: Json, made: "_Shape") -> AsyncIterator[str]:
        manner = body["model"]
        options = body.get("stream_options") or {}
        try:
            if manner == "error_first":
                yield _frame({"error": {"message": "no", "type": "BadRequestError", "code": 400}})
                return
            for number, chunk in enumerate(made.chunks()):
                if options.get("include_usage"):
                    chunk["usage"] = None
                yield _frame(chunk)
                if number == 3:
                    if manner == "error_inside":
                        yield _frame({"error": {"message": "overloaded", "type": "server_error"}})
                        return
                    if manner == "reset":
                        raise ConnectionResetError
                    if manner == "endless":
                        return
                    if manner == "slow":
                        await asyncio.Event().wait()
            if options.get("include_usage"):
                yield _frame({**made.head(), "choices": [], "usage": made.usage()})
            yield ": a comment\n\ndata: [DONE]\n\n"
        finally:
            self.open -= 1

    def _unauthorized(self, request: Request) -> Response | None:
        if request.client is not None:
            self.clients.add(request.client.port)
        if request.headers["authorization"] == f"Bearer {self.key}":
            return None
        given = request.headers["authorization"]
        return _error(401, f"Incorrect API key provided: {given}.", "invalid_api_key", None)


class _Shape:
    """One answer; the subclasses know what a choice looks like."""

    kind = ""
    chunk_kind = ""

    def __init__(self, body: Json) -> None:
        self.body = body
        self.n = body.get("n") or 1
        asked = body.get("max_completion_tokens", body.get("max_tokens"))
        self.words = WORDS[:asked]
        self.finish_reason = "length" if asked and asked < len(WORDS) else "stop"
        self.prompt_tokens = len(json.dumps(body.get("messages", body.get("prompt"))).split())

    def choice(self, index: int) -> Json:
        raise NotImplementedError

    def delta(self, index: int, word: str | None, *, first: bool) -> Json:
        raise NotImplementedError

    def head(self) -> Json:
        """The provider names a dated model and has fields that no SDK knows."""
        model = self.body["model"] + "-2026"
        return {"id": "c-1", "created": 1, "model": model, "object": self.chunk_kind, "x_extra": 7}

    def whole(self) -> Json:
        choices = [self.choice(i) for i in range(self.n)]
        return {**self.head(), "object": self.kind, "choices": choices, "usage": self.usage()}

    def chunks(self) -> list[Json]:
        words: list[str | None] = [*self.words, None]
        return [
            {**self.head(), "choices": [self.delta(index, word, first=position == 0)]}
            for index in range(self.n)
            for position, word in enumerate(words)
        ]

    def usage(self) -> Json:
        completion = len(self.words) * self.n
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
        }

    def reason(self, word: str | None) -> str | None:
        if word is not None:
            return None
        return "abort" if self.body["model"] == "aborted" else self.finish_reason


class _Chat(_Shape):
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, index: int) -> Json:
        message = {"role": "assistant", "content": "".join(self.words), "refusal": None}
        return {"index": index, "message": message, "finish_reason": self.reason(None)}

    def delta(self, index: int, word: str | None, *, first: bool) -> Json:
        delta: Json = {"role": "assistant"} if first else {}
        if word is not None:
            delta["content"] = word
        return {"index": index, "delta": delta, "finish_reason": self.reason(word)}


class _Text(_Shape):
    kind = chunk_kind = "text_completion"

    def choice(self, index: int) -> Json:
        text = "".join(self.words)
        return {"index": index, "text": text, "finish_reason": self.reason(None), "logprobs": None}

    def delta(self, index: int, word: str | None, *, first: bool) -> Json:
        return {
            "index": index,
            "text": word or "",
            "finish_reason": self.reason(word),
            "logprobs": None,
        }


def _misbehave(body: Json) -> Response | None:
    """What a manner answers before there is anything to answer with."""
    match body["model"]:
        case "limited":
            return _error(429, MESSAGE_429, "rate_limit_exceeded", None, {"retry-after": "7"})
        case "broken":
            return _error(500, "The server had an error", None, None)
        case "html":
            return HTMLResponse(PAGE, status_code=502)
        case "html_ok":
            return HTMLResponse(PAGE)
        case "truncated":
            return Response('{"id": "c-1", "choices": [{"ind', media_type="application/json")
        case "error_ok":
            return JSONResponse({"error": {"message": "sorry", "type": "server_error"}})
        case "unprocessable":
            detail = [{"loc": ["body", "n"], "msg": "not a number", "type": "int"}]
            return JSONResponse({"detail": detail}, status_code=422)
        case "ollama":
            return JSONResponse({"error": "model 'ollama' not found"}, status_code=404)
        case "unknown":
            return _error(404, "The model does not exist", "model_not_found", None)
        case "invalid":
            return _error(400, "Invalid value", None, "temperature")
        case _:
            return None


def _error(
    status: int, message: str, code: str | None, param: str | None, headers: Json | None = None
) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _frame(chunk: Json) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


async def _gone(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
