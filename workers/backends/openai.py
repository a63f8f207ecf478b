"""Any OpenAI-compatible URL: OpenAI, ``vllm serve``, SGLang, Ollama, llama.cpp, another Carpool.

The SDK carries bytes: no model of it is built, so fields that it does not know pass through. It
never retries; a request that failed for a passing reason goes back to Carpool's queue.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import anyio
import httpx2
import msgspec
import openai

from carpool.errors import ConfigurationError, PassingError, error_body
from carpool.settings import OpenAISettings
from workers.backends import openai_body
from workers.backends.openai_body import NotAnAnswerError, Outgoing
from workers.backends.openai_errors import refuse
from workers.backends.openai_stream import ProviderStream
from workers.backends.protocol import Answer, Call, Emit

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"
"""What the SDK, which insists on a key, sends to a provider that wants none."""
CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 10.0
DRAIN_SECONDS = 0.1
"""For the end of a response after its [DONE], without which its connection cannot be used again."""

_BROKEN = (httpx2.RequestError, httpx2.StreamError, OSError, anyio.EndOfStream)


class OpenAIBackend:
    """Answers through a pool of connections; one call holds one of them."""

    def __init__(self, name: str, settings: OpenAISettings) -> None:
        self.name = name
        self.capacity = settings.concurrency
        self._settings = settings
        self._client: openai.AsyncOpenAI | None = None

    async def start(self) -> None:
        """Open the pool; nothing is asked of the provider yet."""
        settings = self._settings
        connections = httpx2.Limits(
            max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
        )
        timeout = httpx2.Timeout(
            settings.timeout_seconds, connect=min(CONNECT_SECONDS, settings.timeout_seconds)
        )
        self._client = openai.AsyncOpenAI(
            api_key=self._key(),
            base_url=settings.base_url or OPENAI_URL,
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(
                limits=connections, timeout=timeout, follow_redirects=True
            ),
        )

    async def models(self) -> list[str]:
        """Those of the settings, else the provider's own list; raises PassingError."""
        if self._settings.models is not None:
            return list(self._settings.models)
        body = await self._list_models()
        try:
            return [model.id for model in msgspec.json.decode(body, type=_ModelList).data]
        except msgspec.DecodeError:
            raise self._failure("its list of models cannot be read") from None

    async def answer(self, call: Call, emit: Emit) -> Answer:
        try:
            request = openai_body.outgoing(call)
        except msgspec.DecodeError as error:
            return Answer(status=400, body=error_body(str(error), "invalid_request_error"))
        try:
            if call.stream:
                return await self._stream(call, request, emit)
            return await self._whole(call, request)
        except openai.APIStatusError as error:
            response = error.response
            return refuse(self.name, response.status_code, response.content, response.headers)
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._failure("it did not answer in time", status=504) from None
        except (openai.APIConnectionError, *_BROKEN) as error:
            cause = error.__cause__ or error
            raise self._failure(f"the connection failed ({type(cause).__name__})") from error
        except NotAnAnswerError as error:
            raise self._failure(str(error)) from None

    async def health(self) -> None:
        """Ask for the provider's models; a provider that has no such list answered all the same."""
        await self._list_models()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _whole(self, call: Call, request: Outgoing) -> Answer:
        response = await self._post(call, request)
        body, usage = openai_body.answer(response.content, call.model)
        return Answer(body=body, usage=usage)

    async def _stream(self, call: Call, request: Outgoing, emit: Emit) -> Answer:
        response = await self._post(call, request)
        stream = ProviderStream(self.name, call, emit, usage_asked=request.usage_asked)
        async with aclosing(response), aclosing(response.aiter_bytes()) as received:
            async for part in received:
                if stream.feed(part):
                    await _drain(received)
                    break
        return stream.finish()

    async def _post(self, call: Call, request: Outgoing) -> httpx2.Response:
        return await self._opened().post(
            call.endpoint.removeprefix("/v1"),
            cast_to=httpx2.Response,
            content=request.body,
            options={"headers": {"content-type": "application/json"}},
            stream=call.stream,
        )

    async def _list_models(self) -> bytes:
        try:
            response = await self._opened().get(
                "/models", cast_to=httpx2.Response, options={"timeout": HEALTH_SECONDS}
            )
        except openai.APIStatusError as error:
            refuse(self.name, error.status_code, error.response.content, error.response.headers)
            return b'{"data":[]}'
        except openai.APIConnectionError as error:
            raise self._failure(f"it cannot be reached ({type(error).__name__})") from error
        return response.content

    def _opened(self) -> openai.AsyncOpenAI:
        if self._client is None:
            raise self._failure("it is not open")
        return self._client

    def _key(self) -> str:
        if self._settings.api_key is not None:
            return self._settings.api_key.get_secret_value()
        variable = self._settings.key_variable
        if variable is None:
            return NO_KEY
        try:
            return os.environ[variable]
        except KeyError:
            raise ConfigurationError(
                f"backends.{self.name}.api_key_env: {variable} is not set"
            ) from None

    def _failure(self, reason: str, *, status: int = 502) -> PassingError:
        message = f"The provider of backend '{self.name}' failed: {reason}."
        return PassingError(message, status=status)


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


async def _drain(received: AsyncIterator[bytes]) -> None:
    """Read the end of a response, so that its connection can be used again."""
    with suppress(TimeoutError, *_BROKEN):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in received:
                pass
