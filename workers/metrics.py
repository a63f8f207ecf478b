"""What `/metrics` of a worker shows of its runs; its backend is a label of each figure.

An engine's own figures (``vllm:…``) stand beside them, as it gives them.
"""

from collections import Counter as Multiset
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from time import time

from prometheus_client import Counter, Gauge, Histogram

from carpool.error_codes import code_of
from carpool.ids import milliseconds_of
from carpool.states import Outcome, ServiceClass
from db.claim import Claim
from db.finish import Result

WAIT_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5, 20, 60, 300, 1800, 7200, 28800, 86400)
ANSWER_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OF_QUEUE = ("backend", "model", "class")
OF_ANSWER = ("backend", "model")

CLAIMS = Counter("carpool_claims_total", "Requests that runs have claimed.", OF_QUEUE)
CLAIM_SIZES = Histogram(
    "carpool_claim_size",
    "Requests that came of one claim.",
    ["backend"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
CLAIM_SECONDS = Histogram(
    "carpool_claim_duration_seconds",
    "How long one claim took in Postgres.",
    ["backend"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2, 10),
)
QUEUE_WAIT = Histogram(
    "carpool_queue_wait_seconds",
    "From a request's arrival to its first claim.",
    OF_QUEUE,
    buckets=WAIT_BUCKETS,
)
DURATION = Histogram(
    "carpool_request_duration_seconds",
    "From a request's arrival to its stored answer.",
    OF_QUEUE,
    buckets=WAIT_BUCKETS,
)
ANSWER_SECONDS = Histogram(
    "carpool_answer_duration_seconds",
    "From a request's start at the backend to its answer.",
    OF_ANSWER,
    buckets=ANSWER_BUCKETS,
)
FIRST_TOKEN = Histogram(
    "carpool_time_to_first_token_seconds",
    "From a stream's start at the backend to its first chunk.",
    OF_ANSWER,
    buckets=TOKEN_BUCKETS,
)
ATTEMPTS = Counter(
    "carpool_attempts_total", "Claims that ended, and how.", ["backend", "model", "outcome"]
)
ERRORS = Counter(
    "carpool_errors_total", "Attempts that met an error, by its code.", ["backend", "code"]
)
INPUT_TOKENS = Counter("carpool_input_tokens_total", "Of stored answers' prompts.", OF_ANSWER)
CACHED_TOKENS = Counter(
    "carpool_cached_input_tokens_total", "Of the input tokens, those read from a cache.", OF_ANSWER
)
OUTPUT_TOKENS = Counter("carpool_output_tokens_total", "Of stored answers.", OF_ANSWER)
GATHERED = Histogram(
    "carpool_provider_batch_size",
    "Requests gathered for one provider batch.",
    OF_ANSWER,
    buckets=(1, 10, 100, 1000, 5000, 10_000, 25_000, 50_000),
)
RUNS_STARTED = Counter("carpool_runs_started_total", "Runs of this worker.", ["backend"])
RUNS_ENDED = Counter(
    "carpool_runs_ended_total", "Runs of this worker that ended, and why.", ["backend", "reason"]
)
HELD = Gauge("carpool_run_held_requests", "Requests that the run holds.", ["backend"])
ENGINE_READY = Gauge("carpool_engine_ready", "1 while the engine can answer.", ["backend"])

ATTEMPT_OUTCOMES = ("completed", "failed", "retried", "limited", "dropped")
RUN_ENDS = ("drained", "lost", "engine_died")
CLASSES = {one: one.name.lower() for one in ServiceClass}


class _Asked:
    """The series of one model and class."""

    def __init__(self, backend: str, model: str, service_class: int) -> None:
        labels = (backend, model, CLASSES[ServiceClass(service_class)])
        self.claims = CLAIMS.labels(*labels)
        self.wait = QUEUE_WAIT.labels(*labels)
        self.duration = DURATION.labels(*labels)


class _Answered:
    """The series of one model."""

    def __init__(self, backend: str, model: str) -> None:
        self.seconds = ANSWER_SECONDS.labels(backend, model)
        self.first_token = FIRST_TOKEN.labels(backend, model)
        self.input_tokens = INPUT_TOKENS.labels(backend, model)
        self.cached_tokens = CACHED_TOKENS.labels(backend, model)
        self.output_tokens = OUTPUT_TOKENS.labels(backend, model)
        self.attempts = {
            outcome: ATTEMPTS.labels(backend, model, outcome) for outcome in ATTEMPT_OUTCOMES
        }


class Figures:
    """Observes what happens to the claims of one backend; each series is looked up once.

    Arrivals are read from the ids; that of a batch's line is its batch's.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._asked: dict[tuple[str, int], _Asked] = {}
        self._answered: dict[str, _Answered] = {}
        self._sizes = CLAIM_SIZES.labels(backend)
        self._seconds = CLAIM_SECONDS.labels(backend)
        # A series that is there from the start shows its first event as a growth.
        RUNS_STARTED.labels(backend)
        for reason in RUN_ENDS:
            RUNS_ENDED.labels(backend, reason)
        ENGINE_READY.labels(backend)

    def claimed(self, claims: Sequence[Claim], *, seconds: float) -> None:
        """A claim took so long, and brought these."""
        self._seconds.observe(seconds)
        if not claims:
            return
        self._sizes.observe(len(claims))
        now = time()
        for claim in claims:
            if claim.epoch == 1:
                asked = self._of_queue(claim.model, claim.service_class)
                asked.wait.observe(_age(claim, now))
        for (model, service_class), number in Multiset(
            (claim.model, claim.service_class) for claim in claims
        ).items():
            self._of_queue(model, service_class).claims.inc(number)

    def gathered(self, model: str, number: int) -> None:
        """A provider batch of so many requests was made."""
        GATHERED.labels(self._backend, model).observe(number)

    def answered(
        self, claim: Claim, *, began_at: datetime, ended_at: datetime, first_at: datetime | None
    ) -> None:
        """The backend has answered a claim; ``first_at`` is a stream's first chunk."""
        answered = self._of_model(claim.model)
        answered.seconds.observe((ended_at - began_at).total_seconds())
        if first_at is not None:
            answered.first_token.observe((first_at - began_at).total_seconds())

    def stored(self, claim: Claim, result: Result) -> None:
        """A claim's answer, or lasting error, is stored."""
        asked = self._of_queue(claim.model, claim.service_class)
        asked.duration.observe(_age(claim, time()))
        self.counted(claim.model, result)

    def counted(self, model: str, result: Result) -> None:
        """The same where nothing is known of its class."""
        answered = self._of_model(model)
        if result.outcome is not Outcome.COMPLETED:
            answered.attempts["failed"].inc()
            ERRORS.labels(self._backend, code_of(result.body)).inc()
            return
        answered.attempts["completed"].inc()
        answered.input_tokens.inc(result.prompt_tokens)
        answered.cached_tokens.inc(result.cached_tokens)
        answered.output_tokens.inc(result.completion_tokens)

    def dropped(self, model: str) -> None:
        """An answer was of no use: its claim stood no more."""
        self._of_model(model).attempts["dropped"].inc()

    def returned(self, model: str, body: bytes, *, limited: bool) -> None:
        """An attempt met a passing error ``body``, and its request waits for the next."""
        self._of_model(model).attempts["limited" if limited else "retried"].inc()
        ERRORS.labels(self._backend, code_of(body)).inc()

    def run_started(self) -> None:
        """A run has taken its slot."""
        RUNS_STARTED.labels(self._backend).inc()

    def run_ended(self, reason: str) -> None:
        """A run has ended; the reason is one of `RUN_ENDS`."""
        RUNS_ENDED.labels(self._backend, reason).inc()

    def engine_ready(self, ready: bool) -> None:
        """The engine can answer now, or no more."""
        ENGINE_READY.labels(self._backend).set(ready)

    def _of_queue(self, model: str, service_class: int) -> _Asked:
        key = (model, service_class)
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked(self._backend, model, service_class)
        return asked

    def _of_model(self, model: str) -> _Answered:
        answered = self._answered.get(model)
        if answered is None:
            answered = self._answered[model] = _Answered(self._backend, model)
        return answered


@cache
def figures_of(backend: str) -> Figures:
    """The figures of a backend, the same for all of this process."""
    return Figures(backend)


def _age(claim: Claim, now: float) -> float:
    """Seconds since its arrival, never below 0: the API's clock may be ahead of ours."""
    return max(0.0, now - milliseconds_of(claim.id) / 1000)
