"""The chat completion that every load sends: 720 bytes of prompt in a body of 850."""

import json
from dataclasses import dataclass

NUMBER_MARK = "#" * 12
"""Stands in the prompt for a number, so that no two requests are alike."""
STREAM_END = "data: [DONE]\n\n"
ANSWER_TOKENS = 8
BODY_BYTES = 850
_SENTENCE = "Say in a few words what a team gains when its requests are run together. "


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An OpenAI-compatible server on this machine."""

    port: int
    key: str
    model: str = "simulated"
    host: str = "127.0.0.1"

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"


def http_request(target: Target, *, stream: bool) -> str:
    """The whole request as HTTP/1.1 text, with `NUMBER_MARK` where the number belongs."""
    body = _body(target.model, stream=stream)
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        f"Authorization: Bearer {target.key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines) + "\r\n\r\n" + body


def _body(model: str, *, stream: bool) -> str:
    missing = BODY_BYTES - len(_with_prompt(model, "", stream=stream))
    return _with_prompt(model, (f"{NUMBER_MARK}: " + _SENTENCE * 12)[:missing], stream=stream)


def _with_prompt(model: str, prompt: str, *, stream: bool) -> str:
    messages = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": prompt},
    ]
    body = {"model": model, "messages": messages, "max_tokens": ANSWER_TOKENS}
    return json.dumps(body | ({"stream": True} if stream else {}), separators=(",", ":"))
