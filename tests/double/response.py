"""One response and its states, moved on by the clock alone."""

import math
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.double.answers import CHAT, DATED, Answering, Json
from tests.double.faults import ResponseFault

if TYPE_CHECKING:
    from tests.double.world import World

NEVER = math.inf
ZERO_USAGE: Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(kw_only=True, eq=False)
class Response:
    """queued → in_progress → completed | incomplete | failed; cancelled beside."""

    world: "World"
    body: Json
    """As it was asked for."""
    fault: ResponseFault
    created_at: float
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    status: str = "queued"
    made: Answering | None = None
    """What is paid."""
    completed_at: float | None = None

    @property
    def over(self) -> bool:
        return self.status not in ("queued", "in_progress")

    def due(self) -> float:
        """When `step` is next to be called."""
        settings = self.world.settings
        if not self.body.get("background"):
            return self.created_at
        match self.status:
            case "queued":
                return self.created_at + settings.queued_seconds
            case "in_progress" if not self.fault.stall:
                return self.created_at + settings.queued_seconds + settings.response_seconds
            case _:
                return NEVER

    def step(self, at: float) -> None:
        """Leave the state for the next one."""
        if self.status == "queued":
            self.status = "in_progress"
            return
        self.completed_at = at
        if self.fault.code is not None:
            self.status = "failed"
            return
        world = self.world
        self.made = Answering(world.name, CHAT, chat(self.body), world.prefixes, int(at))
        cut = self.made.whole()["choices"][0]["finish_reason"] == "length"
        self.status = "incomplete" if cut or self.fault.incomplete else "completed"

    def cancel(self) -> None:
        """It is computed no further, and not paid; one that is over stays as it is."""
        if not self.over:
            self.status = "cancelled"

    def as_json(self) -> Json:
        body, fault = self.body, self.fault
        error = None
        if self.status == "failed":
            error = {"code": fault.code, "message": fault.message}
        cut = None
        if self.status == "incomplete":
            cut = {"reason": fault.incomplete or "max_output_tokens"}
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self.created_at),
            "completed_at": None if self.completed_at is None else int(self.completed_at),
            "status": self.status,
            "background": bool(body.get("background")),
            "error": error,
            "incomplete_details": cut,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": f"{body['model']}{DATED}",
            "output": [] if self.made is None else self._output(self.made),
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "service_tier": "default",
            "store": body.get("store", True),
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if self.made is None else _usage(self.made.usage),
            "user": body.get("user"),
        }

    def _output(self, made: Answering) -> list[Json]:
        """A call of the function that must be called, else a message."""
        text = made.whole()["choices"][0]["message"]["content"]
        name = self.id.removeprefix("resp_")
        wanted = self.body.get("tool_choice")
        if isinstance(wanted, dict):
            call = {"name": wanted["name"], "arguments": "{}", "call_id": f"call_{name}"}
            return [{"type": "function_call", "id": f"fc_{name}", "status": "completed", **call}]
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return [
            {"type": "reasoning", "id": f"rs_{name}", "summary": []},
            {
                "type": "message",
                "id": f"msg_{name}",
                "status": self.status,
                "role": "assistant",
                "content": [part],
            },
        ]


def chat(body: Json) -> Json:
    """The chat that is answered with the same text."""
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    said = [{"role": m["role"], "content": _content(m["content"])} for m in messages if "role" in m]
    asked: Json = {"model": body["model"], "messages": said}
    for name, other in (
        ("max_output_tokens", "max_completion_tokens"),
        ("prompt_cache_key", "prompt_cache_key"),
    ):
        if body.get(name) is not None:
            asked[other] = body[name]
    return asked


def _content(content: str | list[Json]) -> str | list[Json]:
    """As a chat has it."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part["text"]}
        if part["type"] in ("input_text", "output_text")
        else {"type": "image_url", "image_url": {"url": part["image_url"]}}
        for part in content
    ]


def _usage(usage: Json) -> Json:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
