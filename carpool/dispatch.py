"""Messages through dramatiq: a backend has work and no run, a batch needs a job.

A message has no meaning of its own. Whether a run may start is decided by a slot row in Postgres,
whether a batch has a job by the owner in its row; a message too many ends at once, and a lost one
is sent again by the sweep.
"""

from collections.abc import Iterable
from uuid import UUID

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from redis import Redis
from redis.exceptions import RedisError

ACTOR = "run"
JOBS_QUEUE = "jobs"
JOBS_ACTOR = "advance"
MAX_JOB_MESSAGES = 1000
"""With so many waiting, no further ones are sent: the sweep will."""


def run_queue(backend: str) -> str:
    """The dramatiq queue of a backend."""
    return f"run.{backend}"


def make_broker(redis_url: str, *, timeout_seconds: float) -> RedisBroker:
    """A broker without middleware: a run has no time limit, no retries, no age."""
    return RedisBroker(  # type: ignore[no-untyped-call]
        # With a URL the broker would make a pool without time limits.
        client=Redis.from_url(
            redis_url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds
        ),
        namespace="carpool",
        middleware=[],
    )


def send_jobs(broker: RedisBroker, batches: Iterable[UUID]) -> bool:
    """Send a message for each batch that needs a job; False where Redis is away. Blocks."""
    try:
        if JOBS_QUEUE not in broker.queues:
            broker.declare_queue(JOBS_QUEUE)
        if broker.do_qsize(JOBS_QUEUE) < MAX_JOB_MESSAGES:
            for batch in batches:
                broker.enqueue(
                    Message(
                        queue_name=JOBS_QUEUE,
                        actor_name=JOBS_ACTOR,
                        args=(batch.hex,),
                        kwargs={},
                        options={},
                    )
                )
    except (RedisError, OSError):
        return False
    return True


def send_run(broker: RedisBroker, backend: str) -> bool:
    """Send a run message, unless one waits already; False where Redis is away. Blocks."""
    queue = run_queue(backend)
    try:
        if queue not in broker.queues:
            broker.declare_queue(queue)
        if broker.do_qsize(queue) == 0:
            broker.enqueue(
                Message(queue_name=queue, actor_name=ACTOR, args=(), kwargs={}, options={})
            )
    except (RedisError, OSError):
        return False
    return True
