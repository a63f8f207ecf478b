"""The Batch API: batches created, watched and cancelled."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.double.answers import NEEDED, Json
from tests.double.batch import ENQUEUED, NEVER, Batch
from tests.double.faults import BatchFault
from tests.double.files import KEPT_SECONDS, LEAST_KEPT_SECONDS
from tests.double.lines import problem
from tests.double.pages import page
from tests.double.record import SeenBatch
from tests.double.refusals import Refused, json_body, json_response, missing

if TYPE_CHECKING:
    from tests.double.world import World

WINDOWS = {"24h": 24 * 3600, "8h": 8 * 3600, "2h": 2 * 3600}
METADATA_PAIRS = 16
METADATA_KEY_LETTERS = 64
METADATA_VALUE_LETTERS = 512
LIST_LIMIT = 100
LIST_USUAL = 20


class Batches:
    """All batches, the oldest first."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._batches: dict[str, Batch]
        self.reset()

    def reset(self) -> None:
        self._batches = {}

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list),
            Route("/v1/batches/{id}", self._get),
            Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    def turn(self, now: float) -> None:
        """Do all that has fallen due by now, in the order in which it fell due."""
        while self._batches:
            first = min(self._batches.values(), key=Batch.due)
            if first.due() > now or first.due() == NEVER:
                break
            first.step(first.due())
        for batch in self._batches.values():
            batch.progress(now)

    def too_many_tokens(self, batch: Batch) -> list[Json]:
        """The error of a batch that goes over its model's enqueued tokens, or nothing."""
        limit = self._world.settings.enqueued_tokens
        waiting = sum(
            other.tokens
            for other in self._batches.values()
            if other.model == batch.model and other.status in ENQUEUED
        )
        if limit is None or waiting + batch.tokens <= limit:
            return []
        text = (
            f"Enqueued token limit reached for {batch.model} in organization "
            f"{self._world.name}. Limit: {limit} enqueued tokens. Please try again once some "
            "in_progress batches have been completed."
        )
        return [problem("token_limit_exceeded", text)]

    def seen(self) -> list[SeenBatch]:
        return [
            SeenBatch(
                id=batch.id,
                endpoint=batch.endpoint,
                completion_window=batch.window,
                metadata=batch.metadata,
                input_file_id=batch.input_file_id,
                status=batch.status,
                custom_ids=[line.custom_id for line in batch.lines],
            )
            for batch in self._batches.values()
        ]

    async def _create(self, request: Request) -> Response:
        world = self._world
        body = await json_body(request)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in body:
                raise missing(name)
        endpoint, window = body["endpoint"], body["completion_window"]
        _among(endpoint, list(NEEDED), "endpoint")
        _among(window, world.settings.windows, "completion_window")
        fault = world.faults.of_batch(await request.body())
        batch = Batch(
            world=world,
            endpoint=endpoint,
            window=window,
            window_seconds=WINDOWS[window],
            input_file_id=str(body["input_file_id"]),
            metadata=metadata_of(body.get("metadata")),
            fault=fault or BatchFault(),
            created_at=world.now(),
            output_kept_seconds=_kept(body.get("output_expires_after")),
        )
        self._batches[batch.id] = batch
        return json_response(batch.as_json())

    async def _list(self, request: Request) -> Response:
        self._world.now()
        newest = [batch.as_json() for batch in reversed(self._batches.values())]
        return page(newest, request, most=LIST_LIMIT, usual=LIST_USUAL)

    async def _get(self, request: Request) -> Response:
        return json_response(self._asked(request).as_json())

    async def _cancel(self, request: Request) -> Response:
        batch = self._asked(request)
        if batch.status in ("completed", "failed", "expired"):
            raise Refused(
                f"Cannot cancel a batch with status '{batch.status}'.",
                status=409,
                headers={"x-should-retry": "false"},
            )
        if batch.status not in ("cancelling", "cancelled"):
            batch.cancel(self._world.now())
        return json_response(batch.as_json())

    def _asked(self, request: Request) -> Batch:
        self._world.now()
        batch = self._batches.get(request.path_params["id"])
        if batch is None:
            text = f"No batch found with id '{request.path_params['id']}'."
            raise Refused(text, status=404, param="id")
        return batch


def _among(given: object, allowed: list[str], param: str) -> None:
    if given not in allowed:
        listed = ", ".join(f"'{one}'" for one in allowed)
        raise Refused(
            f"Invalid value: '{given}'. Supported values are: {listed}.",
            code="invalid_value",
            param=param,
        )


def metadata_of(given: Any) -> dict[str, str] | None:
    """The metadata of a batch or response; raises `Refused`."""
    if given is None:
        return None
    if not isinstance(given, dict):
        text = "Invalid type for 'metadata': expected an object."
        raise Refused(text, code="invalid_type", param="metadata")
    if len(given) > METADATA_PAIRS:
        text = f"Invalid 'metadata': too many properties. At most {METADATA_PAIRS}."
        raise Refused(text, code="object_above_max_properties", param="metadata")
    for name, value in given.items():
        if not isinstance(value, str):
            text = f"Invalid type for 'metadata.{name}': expected a string."
            raise Refused(text, code="invalid_type", param=f"metadata.{name}")
        if len(name) > METADATA_KEY_LETTERS or len(value) > METADATA_VALUE_LETTERS:
            text = f"Invalid 'metadata.{name}': string too long."
            raise Refused(text, code="string_above_max_length", param=f"metadata.{name}")
    return given


def _kept(given: Any) -> int:
    """The seconds of `output_expires_after`, or 30 days."""
    if given is None:
        return KEPT_SECONDS
    seconds = given.get("seconds") if isinstance(given, dict) else None
    if not isinstance(seconds, int) or not LEAST_KEPT_SECONDS <= seconds <= KEPT_SECONDS:
        text = f"Expected from {LEAST_KEPT_SECONDS} to {KEPT_SECONDS} seconds."
        raise Refused(text, code="invalid_value", param="output_expires_after.seconds")
    return seconds
