"""The spans of a claim: its wait, the claim, what the backend computes, the storing of it."""

from typing import Any
from uuid import UUID

from carpool import span_attributes as names
from carpool import tracing
from carpool.ids import BATCH_PREFIX, created_at, public_id
from carpool.settings import BackendSettings, OpenAISettings
from carpool.states import ENDPOINTS, ServiceClass
from db.claim import Claim
from db.provider_batches import ProviderBatch
from workers.backends.protocol import Answer
from workers.provider_address import address

FIRST_EPOCH = 1


class Traces:
    """Makes the spans of one run's claims; each costs nothing while tracing is off."""

    def __init__(self, backend: str, settings: BackendSettings | None, run: UUID) -> None:
        self._backend = backend
        self._run = public_id("run_", run)
        self._where: dict[str, Any] = {names.PROVIDER: provider(settings)}
        self._kind = tracing.Kind.INTERNAL
        if isinstance(settings, OpenAISettings):
            self._kind = tracing.Kind.CLIENT
            self._where |= address(settings.base_url)

    def claim(self, claimed: Claim) -> tracing.Span:
        """From a claim until its answer is stored, or it failed; with the wait before the first.

        A child of the API's span; of a line of a batch, a trace of its own.
        """
        if not tracing.on():
            return tracing.NO_SPAN
        attributes: dict[str, Any] = {
            names.REQUEST: public_id("req_", claimed.id),
            names.TEAM: claimed.team_id,
            names.CLASS: ServiceClass(claimed.service_class).name.lower(),
            names.BACKEND: self._backend,
            names.RUN: self._run,
            names.EPOCH: claimed.epoch,
        }
        if claimed.batch_id is not None:
            attributes[names.BATCH] = public_id(BATCH_PREFIX, claimed.batch_id)
        parent = claimed.traceparent
        span = tracing.span("claim", attributes, kind=tracing.Kind.CONSUMER, parent=parent)
        if claimed.epoch == FIRST_EPOCH:
            received = created_at(claimed.id).timestamp()
            with tracing.span(
                "queue", attributes, parent=parent or span.traceparent, began=received
            ):
                pass
        return span

    def call(self, claimed: Claim) -> tracing.Span:
        """The backend's computation of one attempt."""
        if not tracing.on():
            return tracing.NO_SPAN
        operation = names.OPERATIONS[ENDPOINTS[claimed.endpoint]]
        attributes = {
            names.OPERATION: operation,
            names.REQUEST_MODEL: claimed.model,
            names.REQUEST_STREAM: claimed.streamed,
            names.BACKEND: self._backend,
            **self._where,
        }
        return tracing.span(f"{operation} {claimed.model}", attributes, kind=self._kind)

    def store(self) -> tracing.Span:
        """Until the answer's transaction has committed."""
        return tracing.span("store", {}) if tracing.on() else tracing.NO_SPAN


def record_provider_batch(batch: ProviderBatch, error: str | None) -> None:
    """The time that a provider batch, which ends now, was at the provider, if it was."""
    if batch.submitted_at is None or not tracing.on():
        return
    attributes: dict[str, Any] = {
        names.OPERATION: names.OPERATIONS[ENDPOINTS[batch.endpoint]],
        names.PROVIDER: "openai",
        names.REQUEST_MODEL: batch.model,
        names.RESPONSE_MODEL: batch.upstream,
        names.BACKEND: batch.backend,
        names.PROVIDER_BATCH: batch.id.hex,
        names.LINES: batch.lines,
        names.WINDOW: batch.window,
    }
    began = batch.submitted_at.timestamp()
    with tracing.span("provider batch", attributes, kind=tracing.Kind.CLIENT, began=began) as span:
        if error is not None:
            span.fail(error)


def answered(span: tracing.Span, claimed: Claim, answer: Answer) -> None:
    """Tell a computation's span what came of it."""
    if not tracing.on():
        return
    if answer.status != 200:
        span.fail(str(answer.status))
        return
    usage = answer.usage
    span.set(
        {
            names.RESPONSE_MODEL: claimed.upstream,
            names.INPUT_TOKENS: usage.prompt_tokens,
            names.OUTPUT_TOKENS: usage.completion_tokens,
            names.CACHE_READ_TOKENS: usage.cached_tokens,
            names.CACHE_WRITTEN_TOKENS: usage.written_tokens,
        }
    )


def provider(settings: BackendSettings | None) -> str:
    """``gen_ai.provider.name``; whatever speaks OpenAI's API counts as OpenAI."""
    if isinstance(settings, OpenAISettings):
        return "openai"
    return "unknown" if settings is None else settings.kind
