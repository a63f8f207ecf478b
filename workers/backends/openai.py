"""Any OpenAI-compatible URL: OpenAI, ``vllm serve``, SGLang, Ollama, llama.cpp, another Carpool.

The SDK carries bytes: no model of it is built, so fields that it does not know pass through. It
never retries; a request that failed for a passing reason goes back to Carpool's queue.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress

import anyio
import httpx2
import msgspec
import openai

from carpool import tracing
from carpool.engine import EngineFigures
from carpool.errors import PassingError, error_body
from carpool.settings import OpenAISettings
from carpool.span_attributes import HTTP_METHOD, HTTP_STATUS
from db.database import Database
from workers.backends import openai_body, openai_limits
from workers.backends.concurrency import Places
from workers.backends.openai_body import NotAnAnswerError, Outgoing
from workers.backends.openai_budget import SharedBudget
from workers.backends.openai_errors import refuse
from workers.backends.openai_key import key_of
from workers.backends.openai_limits import RateLimits
from workers.backends.openai_stream import ProviderStream
from workers.backends.protocol import Answer, Call, Emit
from workers.provider_address import address

OPENAI_URL = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0
HEALTH_SECONDS = 10.0
DRAIN_SECONDS = 0.1
"""For the end of a response after its [DONE], without which its connection cannot be used again."""

STRAINED = frozenset({502, 503, 504})
"""How a provider fails that is given too much at once, beside its rate limits; a connection that
broke is a 502 here, an answer that did not come in time a 504."""
FULL_SECONDS = 1.0
"""After which a model is asked for places again, if none of its calls has ended before."""

_BROKEN = (httpx2.RequestError, httpx2.StreamError, OSError, anyio.EndOfStream)


class OpenAIBackend:
    """Answers through a pool of connections; one call holds one of them."""

    def __init__(self, name: str, settings: OpenAISettings, database: Database) -> None:
        self.name = name
        self._settings = settings
        self._places = Places(settings.concurrency)
        self._budget = SharedBudget(name, database)
        self._client: openai.AsyncOpenAI | None = None
        self._address = address(settings.base_url)

    @property
    def capacity(self) -> int:
        return self._places.limit

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
            api_key=key_of(self.name, self._settings),
            base_url=settings.base_url or OPENAI_URL,
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(
                limits=connections, timeout=timeout, follow_redirects=True
            ),
        )
        self._budget.start()

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
            request = openai_body.outgoing(call, group=self._settings.groups_prompts)
        except msgspec.DecodeError as error:
            return Answer(status=400, body=error_body(str(error), "invalid_request_error"))
        began = time.monotonic()
        with self._places.take(call.upstream):
            try:
                with self._span(call):
                    answer = await self._ask(call, request, emit)
            except PassingError as error:
                if not error.counts:
                    self._places.limited(call.upstream, began=began, now=time.monotonic())
                elif error.status in STRAINED:
                    self._places.strained(began=began, now=time.monotonic())
                raise
            self._places.succeeded(call.upstream)
        if answer.status == 200:
            tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
            self._budget.used(call.upstream, tokens)
        return answer

    def shut(self) -> Mapping[str, float]:
        return dict.fromkeys(self._places.full(), FULL_SECONDS) | self._budget.shut()

    async def admit(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        room = {name: min(number, self._places.free(name)) for name, number in wanted.items()}
        return room | await self._budget.admit({name: n for name, n in room.items() if n})

    async def unused(self, calls: Mapping[str, int]) -> None:
        await self._budget.unused(calls)

    async def health(self) -> None:
        """Ask for the provider's models; a provider that has no such list answered all the same."""
        await self._list_models()

    def figures(self) -> EngineFigures | None:
        """A provider's engines are its own affair."""
        return None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._budget.close()

    async def _ask(self, call: Call, request: Outgoing, emit: Emit) -> Answer:
        sent_at = time.monotonic()
        try:
            response = await self._post(call, request)
            self._heard(call, response, sent_at)
            if call.stream:
                return await self._stream(call, request, response, emit)
            body, usage = openai_body.answer(response.content, call.model)
            return Answer(body=body, usage=usage)
        except openai.APIStatusError as error:
            limits = self._heard(call, error.response, sent_at)
            return self._refused(call, error.response, limits)
        except (openai.APITimeoutError, httpx2.TimeoutException):
            tracing.current().fail("timeout")
            raise self._failure("it did not answer in time", status=504) from None
        except (openai.APIConnectionError, *_BROKEN) as error:
            cause = error.__cause__ or error
            tracing.current().fail(type(cause).__name__)
            raise self._failure(f"the connection failed ({type(cause).__name__})") from error
        except NotAnAnswerError as error:
            raise self._failure(str(error), paid=not self._settings.own) from None

    def _heard(self, call: Call, response: httpx2.Response, sent_at: float) -> RateLimits:
        span = tracing.current()
        span.set({HTTP_STATUS: response.status_code})
        if response.is_error:
            span.fail(str(response.status_code))
        limits = openai_limits.read(response.headers)
        others = self._places.taken(call.upstream) - 1
        self._budget.heard(call.upstream, limits, sent_at=sent_at, in_flight=others)
        return limits

    def _refused(self, call: Call, response: httpx2.Response, limits: RateLimits) -> Answer:
        try:
            return refuse(self.name, response.status_code, response.content, response.headers)
        except PassingError as error:
            if not error.counts:
                self._budget.pause(call.upstream, limits.pause_seconds)
            raise

    async def _stream(
        self, call: Call, request: Outgoing, response: httpx2.Response, emit: Emit
    ) -> Answer:
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
            options={"headers": {"content-type": "application/json", **tracing.headers()}},
            stream=call.stream,
        )

    def _span(self, call: Call) -> tracing.Span:
        """The exchange with the provider, whose own spans become its children."""
        if not tracing.on():
            return tracing.NO_SPAN
        attributes = {HTTP_METHOD: "POST", **self._address}
        return tracing.span("POST", attributes, kind=tracing.Kind.CLIENT)

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

    def _failure(self, reason: str, *, status: int = 502, paid: bool = False) -> PassingError:
        message = f"The provider of backend '{self.name}' failed: {reason}."
        return PassingError(message, status=status, paid=paid)


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
