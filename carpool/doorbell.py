"""Redis: the doorbell. Every call has a time limit, and none may hold up or lose a request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from carpool.log import cause
from carpool.notices import (
    BatchNotice,
    Bell,
    Notice,
    Reads,
    api_channel,
    backend_channel,
    encode,
    readers_channel,
    run_channel,
)

Message = Bell | Notice | Reads | BatchNotice
Heard = Callable[[str, bytes], None]
"""Takes a channel and what was said there."""
RECONNECT_SECONDS = 0.5
PING_SECONDS = 5.0
log = structlog.get_logger()


class Doorbell:
    """Publishes what is put to it: what is put while a publication is under way goes together."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._redis = Redis.from_url(
            url,
            socket_timeout=None,  # each call here has one around it, and redis-py's costs a task
            socket_connect_timeout=timeout_seconds,
            protocol=2,
        )
        self._pending: dict[str, list[Message]] = {}
        self._wake = asyncio.Event()
        self.publication = 0
        """Grows with each publication; what was put under its present value is not sent yet."""
        self.healthy = True
        """Whether the last call reached Redis."""

    def notify(self, channel: UUID, notice: Notice) -> None:
        """Tell an API process."""
        self._put(api_channel(channel), notice)

    def ring(self, backend: str, bell: Bell) -> None:
        """Tell the runs of a backend."""
        self._put(backend_channel(backend), bell)

    def tell_run(self, run: UUID, bell: Bell) -> None:
        """Tell one run."""
        self._put(run_channel(run), bell)

    def tell_reader(self, run: UUID, reads: Reads) -> None:
        """Tell one run who reads of a stream that it has."""
        self._put(readers_channel(run), reads)

    def tell_of_batches(self, channel: str, batches: Iterable[UUID]) -> None:
        """Tell those who watch batches, or those who work on them."""
        for batch in batches:
            self._put(channel, BatchNotice(batch))

    def announce(self, channel: str) -> None:
        """Publish an empty message."""
        self._pending.setdefault(channel, [])
        self._wake.set()

    def _put(self, channel: str, message: Message) -> None:
        waiting = self._pending.get(channel)
        if waiting is None:
            self._pending[channel] = [message]
        else:
            waiting.append(message)
        self._wake.set()

    async def serve(self) -> None:
        """Publish for ever. What cannot be published is dropped: Postgres has it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, {}
            self.publication += 1
            await self.publish(pending)

    async def publish(self, messages: Mapping[str, Sequence[Message]]) -> None:
        """Publish now, one message a channel."""
        try:
            async with asyncio.timeout(self._timeout):
                if len(messages) == 1:
                    for channel, parts in messages.items():
                        await self._redis.publish(channel, encode(parts))
                else:
                    pipeline = self._redis.pipeline(transaction=False)
                    for channel, parts in messages.items():
                        pipeline.publish(channel, encode(parts))
                    await pipeline.execute()
            self.healthy = True
        except (RedisError, OSError, TimeoutError) as error:
            self._note(error)

    async def ping(self) -> bool:
        """Whether Redis answers now."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.ping()
            self.healthy = True
        except (RedisError, OSError, TimeoutError) as error:
            self._note(error)
        return self.healthy

    async def listen(
        self,
        channels: Sequence[str],
        heard: Heard,
        connected: Callable[[], Awaitable[None]],
    ) -> None:
        """Hear channels for ever; ``connected`` is called after each (re)connection, for what was
        said before it is lost."""
        while True:
            pubsub = self._redis.pubsub()
            try:
                async with asyncio.timeout(self._timeout):
                    await _subscribe(pubsub, channels, heard)
                self.healthy = True
                await connected()
                await self._hear(pubsub, heard)
            except (RedisError, OSError, TimeoutError) as error:
                self._note(error)
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _hear(self, pubsub: PubSub, heard: Heard) -> None:
        silent = 0
        while True:
            async with asyncio.timeout(PING_SECONDS + self._timeout):  # it may connect again
                message = await pubsub.get_message(timeout=PING_SECONDS)
            if message is None:
                silent += 1
                if silent > 1:
                    raise TimeoutError("Redis does not answer")
                async with asyncio.timeout(self._timeout):
                    await pubsub.ping()
                continue
            silent = 0
            _pass_on(message, heard)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _note(self, error: BaseException) -> None:
        if self.healthy:
            log.warning("redis_away", error=cause(error))
        self.healthy = False


async def _subscribe(pubsub: PubSub, channels: Sequence[str], heard: Heard) -> None:
    """Return once Redis has confirmed it: from then on nothing that is said is missed."""
    await pubsub.subscribe(*channels)
    confirmed = 0
    while confirmed < len(channels):
        message = await pubsub.get_message(timeout=None)
        if message is not None and message["type"] == "subscribe":
            confirmed += 1
        else:
            _pass_on(message, heard)


def _pass_on(message: Any, heard: Heard) -> None:
    if message is not None and message["type"] == "message":
        heard(message["channel"].decode(), message["data"])
