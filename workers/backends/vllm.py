"""A vLLM engine that belongs to this worker's process.

``start`` sets ``VLLM_WORKER_MULTIPROC_METHOD=spawn`` unless it is set: the engine is a process of
its own, and a spawned one imports the parent's main module, which therefore needs its
``if __name__ == "__main__"``. vLLM is imported by ``start`` alone.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from carpool.engine import EngineFigures
from carpool.errors import ConfigurationError, EngineDied
from carpool.settings import VLLMSettings, served_name
from workers.backends.protocol import Answer, Call, Emit
from workers.backends.vllm_figures import RecentFigures

if TYPE_CHECKING:
    from workers.backends.vllm_engine import VLLMEngine

DEFAULT_ARGS = ("--scheduling-policy", "priority", "--enable-prompt-tokens-details")
"""What Carpool needs of vLLM: the service class orders its waiting queue, and usage says how much
of the prompt was cached."""

LEAST_LOOK_AHEAD = 4
LOOK_AHEAD_SHARE = 16


class VLLMBackend:
    """Answers in one engine; ``running`` is how many sequences the engine holds at the moment."""

    def __init__(self, name: str, settings: VLLMSettings) -> None:
        self.name = name
        self.capacity = 0
        self._settings = settings
        self._loading: asyncio.Future[None] | None = None
        self._engine: VLLMEngine | None = None
        self._figures = RecentFigures()

    @property
    def running(self) -> int:
        return self._engine.unfinished if self._engine is not None else 0

    async def start(self) -> None:
        """Load the engine, in a thread: the event loop goes on while the weights are read."""
        arguments = self._arguments()
        try:
            module = await asyncio.to_thread(import_module, "workers.backends.vllm_engine")
        except ImportError as error:
            raise ConfigurationError(f"backends.{self.name}: no vLLM here: {error}") from error
        engine: VLLMEngine = module.VLLMEngine(arguments)
        self._engine = engine
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load, engine))
        await asyncio.shield(self._loading)
        await engine.open()
        seats = engine.max_sequences
        self.capacity = seats + max(LEAST_LOOK_AHEAD, seats // LOOK_AHEAD_SHARE)

    async def models(self) -> list[str]:
        """The served name, and those of LoRA adapters."""
        return await self._started().models()

    async def answer(self, call: Call, emit: Emit) -> Answer:
        return await self._started().answer(call, emit)

    def shut(self) -> Mapping[str, float]:
        return {}

    async def admit(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        return wanted

    async def unused(self, calls: Mapping[str, int]) -> None:
        """Each worker has an engine of its own."""

    async def health(self) -> None:
        await self._started().health()

    def figures(self) -> EngineFigures | None:
        return self._figures.look() if self._engine is not None else None

    async def close(self) -> None:
        """End the engine's processes; a start that is under way is awaited first."""
        engine, self._engine = self._engine, None
        if self._loading is not None:
            await asyncio.wait([self._loading])
        if engine is not None:
            await engine.close()

    def _started(self) -> "VLLMEngine":
        if self._engine is None:
            raise EngineDied(f"The engine of backend '{self.name}' is not running.")
        return self._engine

    def _arguments(self) -> list[str]:
        if "--served-model-name" in self._settings.args:
            raise ConfigurationError(
                f"backends.{self.name}.args: set served_model_name, not --served-model-name"
            )
        return [
            *DEFAULT_ARGS,
            *self._settings.args,
            "--model",
            self._settings.model,
            "--served-model-name",
            served_name(self._settings),
        ]

    def _load(self, engine: "VLLMEngine") -> None:
        try:
            engine.load()
        except SystemExit:
            raise ConfigurationError(
                f"backends.{self.name}.args: vLLM refuses them; its message stands in the log"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"backends.{self.name}: {error}") from error
        except RuntimeError as error:
            raise OSError(f"The engine of backend '{self.name}' did not start: {error}") from error
