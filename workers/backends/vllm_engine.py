"""vLLM in process, through its own OpenAI serving classes (COMPAT section 4).

This module imports vLLM; only a worker that serves it imports this module.
"""

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing
from multiprocessing import active_children
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from carpool import tracing
from carpool.errors import EngineDied, PassingError
from carpool.states import Endpoint
from workers.backends import vllm_answer
from workers.backends.protocol import Answer, Call, Emit
from workers.backends.refusal import RefusedError

_REQUESTS: dict[Endpoint, TypeAdapter[Any]] = {
    Endpoint.CHAT: TypeAdapter(ChatCompletionRequest),
    Endpoint.COMPLETIONS: TypeAdapter(CompletionRequest),
    Endpoint.EMBEDDINGS: TypeAdapter(EmbeddingRequest),
}

_SERVING = {
    Endpoint.CHAT: "openai_serving_chat",
    Endpoint.COMPLETIONS: "openai_serving_completion",
    Endpoint.EMBEDDINGS: "serving_embedding",
}
SHUTDOWN_SECONDS = 10.0
"""For the engine's processes to free the device; vLLM's own default is to kill them at once."""

_DEAD = "The vLLM engine has died."


class VLLMEngine:
    """One engine with its processes; ``unfinished`` counts its sequences, waiting ones included."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._args = Namespace()
        self._llm: Any = None
        self._state = State()
        self.max_sequences = 0

    def load(self) -> None:
        """Start the engine; blocks for seconds to minutes.

        Nothing in this frame refers to the engine: vLLM keeps exceptions, and with them the frames
        of its callers, so that a local variable would keep a closed engine in memory.
        """
        cli_env_setup()
        self._args = make_arg_parser(FlexibleArgumentParser()).parse_args(self._arguments)
        validate_parsed_serve_args(self._args)
        # They would write prompts and answers into the log.
        self._args.enable_log_requests = self._args.enable_log_outputs = False
        config = AsyncEngineArgs.from_cli_args(self._args).create_engine_config(
            usage_context=UsageContext.OPENAI_API_SERVER
        )
        self.max_sequences = config.scheduler_config.max_num_seqs
        self._llm = AsyncLLM.from_vllm_config(
            vllm_config=config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=self._args.enable_log_requests,
            disable_log_stats=self._args.disable_log_stats,
        )

    async def open(self) -> None:
        """Build the serving classes, in the event loop that will call them."""
        await self._llm.reset_mm_cache()
        tasks = await self._llm.get_supported_tasks()
        await init_app_state(self._llm, self._state, self._args, tasks)

    @property
    def unfinished(self) -> int:
        return 0 if self._llm is None else int(self._llm.get_num_unfinished_requests())

    async def models(self) -> list[str]:
        listed = await self._state.openai_serving_models.show_available_models()
        return [card.id for card in listed.data]

    async def health(self) -> None:
        self._alive()

    async def close(self) -> None:
        """End the engine's processes; what it still holds raises EngineDied."""
        llm, self._llm, self._state = self._llm, None, State()
        if llm is None:
            return
        llm.output_processor.propagate_error(EngineDeadError())
        timeout = max(llm.vllm_config.shutdown_timeout, SHUTDOWN_SECONDS)
        await asyncio.to_thread(llm.shutdown, timeout=timeout)
        active_children()  # takes away what had to be killed
        _end_context(llm.engine_core.resources)

    async def answer(self, call: Call, emit: Emit) -> Answer:
        """Run one call; see the protocol."""
        self._alive()
        try:
            served = await self._serve(self._handler(call), self._request(call))
            if isinstance(served, ErrorResponse):
                raise self._refused(call, served)
        except RefusedError as refused:
            return refused.answer
        if isinstance(served, AsyncGenerator):
            return await self._stream(call, served, emit)
        if isinstance(served, Response):
            return vllm_answer.whole(msgspec.json.decode(served.body), call.model)
        return vllm_answer.whole(served.model_dump(mode="json"), call.model)

    def _handler(self, call: Call) -> Any:
        """What serves an endpoint; vLLM itself lets embeddings of an unknown model through."""
        models = self._state.openai_serving_models
        if not models.is_base_model(call.upstream) and call.upstream not in models.lora_requests:
            raise vllm_answer.unknown_model(call)
        serving = getattr(self._state, _SERVING[call.endpoint], None)
        if serving is None:
            raise vllm_answer.unsupported(call)
        match call.endpoint:
            case Endpoint.CHAT:
                return serving.create_chat_completion
            case Endpoint.COMPLETIONS:
                return serving.create_completion
            case Endpoint.EMBEDDINGS:
                return serving

    def _request(self, call: Call) -> Any:
        """The body as vLLM's own model, whose validators raise pydantic's errors and vLLM's."""
        body = vllm_answer.engine_body(call)
        try:
            return _REQUESTS[call.endpoint].validate_python(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise vllm_answer.invalid(first["loc"], first["msg"]) from None
        except Exception as error:
            raise self._refused(call, create_error_response(error)) from error

    async def _serve(self, handler: Any, request: Any) -> Any:
        """A model, a response, an ErrorResponse or a generator of frames.

        The serving classes turn a cancellation into the error "Client disconnected", after they
        have aborted the request; here it becomes a cancellation again.
        """
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        try:
            served = await handler(request, self._traced())
        except EngineDeadError as error:
            raise EngineDied(_DEAD) from error
        except Exception as error:
            served = create_error_response(error)
        if task is not None and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
        return served

    def _traced(self) -> Request | None:
        """What brings the current span to the engine, where that was told to trace as well."""
        headers = tracing.headers() if self._args.otlp_traces_endpoint else {}
        if not headers:
            return None
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return Request({"type": "http", "headers": raw})

    async def _stream(self, call: Call, frames: AsyncGenerator[str], emit: Emit) -> Answer:
        """Emit each chunk; an error before the first is a lasting one if its status says so."""
        chunks = vllm_answer.ChunkReader(call)
        async with aclosing(frames):
            async for frame in frames:
                chunk = chunks.read(frame)
                if chunks.error is not None:
                    return self._broken(call, chunks)
                if chunk is not None:
                    emit(chunk)
        return chunks.answer()

    def _broken(self, call: Call, chunks: vllm_answer.ChunkReader) -> Answer:
        try:
            refused = self._refused(call, ErrorResponse.model_validate({"error": chunks.error}))
        except ValidationError:
            raise PassingError("vLLM ended the stream with an error.") from None
        if chunks.started:
            raise PassingError("vLLM ended the stream with an error", detail=str(refused))
        return refused.answer

    def _refused(self, call: Call, response: ErrorResponse) -> RefusedError:
        """vLLM's error in OpenAI's shape; raises what it means for the queue, if not lasting."""
        self._alive()
        error = response.error
        return vllm_answer.refused(call, error.code, error.message, error.param)

    def _alive(self) -> None:
        if self._llm is None or self._llm.errored:
            raise EngineDied(_DEAD)


def _end_context(resources: Any) -> None:
    """vLLM closes its sockets and leaves their ZeroMQ context open, with its threads.

    To end a context that has an open socket would block for ever.
    """
    sockets = (
        resources.input_socket,
        resources.output_socket,
        resources.first_req_send_socket,
        resources.first_req_rcv_socket,
        resources.stats_update_socket,
    )
    if all(socket is None or socket.closed for socket in sockets):
        resources.ctx.term()
