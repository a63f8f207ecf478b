"""What the conformance suite needs of each backend: how to start it, and how to look inside."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from carpool.ids import new_id
from carpool.settings import BackendSettings, OpenAISettings, SimulatedSettings, VLLMSettings
from carpool.states import Endpoint, ServiceClass
from db.database import Database
from tests.conformance.provider import KEY, Provider
from workers.backends.protocol import Answer, Backend, Call
from workers.backends.registry import make

MODEL = "team-model"
"""The name that clients use; no backend knows it."""

VLLM_ARGS = ("--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "2048")

VLLM_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore:{message}:{category}")
    for message, category in (
        ("", "DeprecationWarning"),  # of libraries below vLLM
        ("", "FutureWarning"),  # the same
    )
]

AWAY = Database("postgresql://nobody@127.0.0.1:1/none")
"""No database: a backend answers without it."""

Json = dict[str, Any]


@dataclass
class Harness:
    """A started backend, the model it knows, and the number of calls that it computes now."""

    backend: Backend
    upstream: str
    slow: Json
    """What a body needs, and its upstream name if that differs, to keep the backend busy."""
    running: Callable[[], int]
    slow_upstream: str | None = None
    embeds: bool = True
    emitted: list[bytes] = field(default_factory=list)

    def call(self, body: Json, *, raw: bytes | None = None, **changes: Any) -> Call:
        fields: Json = {
            "id": new_id(),
            "endpoint": Endpoint.CHAT,
            "model": MODEL,
            "upstream": self.upstream,
            "body": raw or msgspec.json.encode({"model": MODEL, **body}),
            "stream": bool(body.get("stream")),
            "service_class": ServiceClass.INTERACTIVE,
            "team_id": 1,
            "prefix_key": 0,
        }
        return Call(**(fields | changes))

    def slow_call(self, body: Json, **changes: Any) -> Call:
        return self.call(body | self.slow, upstream=self.slow_upstream or self.upstream, **changes)

    async def answer(self, body: Json, **changes: Any) -> Answer:
        """Run a call to its end; its chunks stand in ``emitted``."""
        self.emitted.clear()
        return await self.backend.answer(self.call(body, **changes), self.emitted.append)

    async def decoded(self, body: Json, **changes: Any) -> Json:
        answer = await self.answer(body, **changes)
        assert answer.status == 200, answer.body
        found: Json = msgspec.json.decode(answer.body)
        return found

    def chunks(self) -> list[Json]:
        return [msgspec.json.decode(chunk) for chunk in self.emitted]


@asynccontextmanager
async def simulated(**settings: Any) -> AsyncIterator[Harness]:
    pace = {"first_token_milliseconds": 0, "token_milliseconds": 0}
    given = SimulatedSettings.model_validate({"kind": "simulated", **pace, **settings})
    backend: Any = make("simulated", given, AWAY)
    async with started(backend):
        yield Harness(
            backend,
            "simulated",
            slow={"carpool_simulate": {"milliseconds_per_token": 2000}},
            running=lambda: int(backend.running),
        )


@asynccontextmanager
async def openai(**settings: Any) -> AsyncIterator[tuple[Harness, Provider]]:
    async with Provider() as provider:
        given = OpenAISettings.model_validate(
            {"kind": "openai", "base_url": provider.url, "api_key": SecretStr(KEY), **settings}
        )
        async with started(make("provider", given, AWAY)) as backend:
            yield (
                Harness(backend, "good", {}, running=lambda: provider.open, slow_upstream="slow"),
                provider,
            )


@asynccontextmanager
async def vllm(model: str, *args: str) -> AsyncIterator[Harness]:
    given = VLLMSettings(
        kind="vllm", model=model, served_model_name="tiny", args=(*VLLM_ARGS, *args)
    )
    backend: Any = make("vllm", given, AWAY)
    async with started(backend):
        yield Harness(
            backend,
            "tiny",
            slow={"max_tokens": 1900, "ignore_eos": True},
            running=lambda: int(backend.running),
            embeds=False,
        )


@asynccontextmanager
async def started(backend: Backend) -> AsyncIterator[Backend]:
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()


def unstarted(kind: str) -> Backend:
    """A backend of each kind, as it is before its start."""
    settings: dict[str, BackendSettings] = {
        "simulated": SimulatedSettings(
            kind="simulated", first_token_milliseconds=0, token_milliseconds=0, slots=1
        ),
        "openai": OpenAISettings.model_validate({"kind": "openai", "api_key": KEY}),
        "vllm": VLLMSettings(kind="vllm", model="nowhere"),
    }
    return make(kind, settings[kind], AWAY)
