"""What the double answers: text that only the body and the double's name decide."""

import base64
import hashlib
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.double.prefixes import BYTES_A_TOKEN, Prefixes

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
NEEDED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
"""Beside `model`, by endpoint."""

FILLING = (" shares", " the", " ride", " with", " all", " the", " others")
"""What follows the first token, which names the double and the prompt."""
DIMENSIONS = 8
DATED = "-2026-11-01"
"""OpenAI answers with a dated model."""


def text(name: str, body: Json, subject: int = 0, choice: int = 0) -> str:
    """The text of one choice for one of the body's prompts."""
    return "".join(_words(name, body, _subjects(body)[subject], choice))


def vectors(name: str, body: Json) -> list[list[float]]:
    """One for each input, of `dimensions` numbers (8 by default), exact in float32."""
    size = body.get("dimensions") or DIMENSIONS
    return [_vector(f"{name}:{subject}", size) for subject in _subjects(body)]


def prompt_tokens(body: Json) -> int:
    """Four bytes are a token; at least one."""
    return max(1, len(_prompt(body)) // BYTES_A_TOKEN)


def most_tokens(body: Json) -> int:
    """What a rate limit charges: the prompt, and what may be generated."""
    asked = _asked(body)
    generated = len(FILLING) + 1 if asked is None else asked
    return prompt_tokens(body) + (0 if "input" in body else generated * (body.get("n") or 1))


def malformed(endpoint: str, body: Json) -> str | None:
    """The name of a parameter that is not what it should be."""
    for name in ("n", "max_tokens", "max_completion_tokens", "dimensions"):
        given = body.get(name)
        if given is not None and (not isinstance(given, int) or given < 1):
            return name
    messages = body.get("messages")
    if endpoint == CHAT and not (
        isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
    ):
        return "messages"
    return None


class Answering:
    """One answer, made whole or in chunks; ``usage`` holds for both.

    Making it looks up the prompt's prefix in the cache, and leaves it there.
    """

    def __init__(self, name: str, endpoint: str, body: Json, prefixes: Prefixes, at: int) -> None:
        self._name = name
        self._endpoint = endpoint
        self._body = body
        self._at = at
        self._id = uuid.uuid4().hex
        self._choices = [] if endpoint == EMBEDDINGS else self._generated()
        prompt = _prompt(body)
        count = prompt_tokens(body)
        key = body.get("prompt_cache_key")
        cached = prefixes.look(str(body["model"]), key, prompt, count)
        generated = sum(len(words) for words in self._choices)
        self.usage: Json = {
            "prompt_tokens": count,
            "completion_tokens": generated,
            "total_tokens": count + generated,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def whole(self) -> Json:
        if self._endpoint == EMBEDDINGS:
            return self._embedding()
        choices = [self._whole_choice(i, words) for i, words in enumerate(self._choices)]
        return {**self._head(), "object": self._kind(), "choices": choices, "usage": self.usage}

    def chunks(self) -> Iterator[Json]:
        """Those of a stream, with the usage at its end where `stream_options` asks for it."""
        with_usage = bool((self._body.get("stream_options") or {}).get("include_usage"))
        kind = "chat.completion.chunk" if self._endpoint == CHAT else self._kind()
        head = {**self._head(), "object": kind}
        for index, words in enumerate(self._choices):
            for choice in self._pieces(index, words):
                yield {**head, "choices": [choice], **({"usage": None} if with_usage else {})}
        if with_usage:
            yield {**head, "choices": [], "usage": self.usage}

    def _generated(self) -> list[list[str]]:
        return [
            _words(self._name, self._body, subject, choice)
            for subject in _subjects(self._body)
            for choice in range(self._body.get("n") or 1)
        ]

    def _head(self) -> Json:
        prefix = "chatcmpl" if self._endpoint == CHAT else "cmpl"
        return {
            "id": f"{prefix}-{self._id}",
            "created": self._at,
            "model": f"{self._body['model']}{DATED}",
            "system_fingerprint": f"fp_{self._name}",
        }

    def _kind(self) -> str:
        return "chat.completion" if self._endpoint == CHAT else "text_completion"

    def _whole_choice(self, index: int, words: list[str]) -> Json:
        said = "".join(words)
        shape: Json = (
            {"message": {"role": "assistant", "content": said, "refusal": None}}
            if self._endpoint == CHAT
            else {"text": said}
        )
        reason = self._reason(words)
        return {"index": index, **shape, "logprobs": None, "finish_reason": reason}

    def _pieces(self, index: int, words: list[str]) -> Iterator[Json]:
        if self._endpoint == CHAT:
            shapes: list[Json] = [{"delta": {"role": "assistant", "content": ""}}]
            shapes += [{"delta": {"content": word}} for word in words]
            shapes.append({"delta": {}})
        else:
            shapes = [{"text": word} for word in [*words, ""]]
        for position, shape in enumerate(shapes):
            last = position == len(shapes) - 1
            reason = self._reason(words) if last else None
            yield {"index": index, **shape, "logprobs": None, "finish_reason": reason}

    def _reason(self, words: list[str]) -> str:
        return "length" if _asked(self._body) == len(words) else "stop"

    def _embedding(self) -> Json:
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(vectors(self._name, self._body))
        ]
        usage = {name: self.usage[name] for name in ("prompt_tokens", "total_tokens")}
        model = f"{self._body['model']}{DATED}"
        return {"object": "list", "data": data, "model": model, "usage": usage}

    def _encoded(self, vector: list[float]) -> str | list[float]:
        if self._body.get("encoding_format") != "base64":
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _words(name: str, body: Json, subject: str, choice: int) -> list[str]:
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()[:16]
    first = f"{name}:{digest}" + (f"#{choice}" if choice else "")
    return [first, *FILLING][: _asked(body)]


def _asked(body: Json) -> int | None:
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    return None if asked is None else int(asked)


def _subjects(body: Json) -> list[str]:
    """What is answered: a chat's last user message, each prompt of a completion, each input."""
    if "messages" in body:
        said = [m for m in body["messages"] if m.get("role") == "user"] or body["messages"]
        return [_text(said[-1].get("content"))]
    given = body["prompt"] if "prompt" in body else body["input"]
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return [_text(one) for one in given]
    return [_text(given)]


def _prompt(body: Json) -> bytes:
    """All that the model would read: bodies with a common start have a common prefix."""
    if "messages" in body:
        parts = [f"{m.get('role')}: {_text(m.get('content'))}\n" for m in body["messages"]]
    else:
        parts = _subjects(body)
    return "".join(parts).encode(errors="surrogatepass")


def _text(content: object) -> str:
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def _vector(seed: str, size: int) -> list[float]:
    made = hashlib.shake_128(seed.encode(errors="surrogatepass")).digest(size)
    return [byte / 128 - 1 for byte in made]
