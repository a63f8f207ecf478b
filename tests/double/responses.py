"""The Responses API as far as it waits: created, read, cancelled and deleted."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response as Answer
from starlette.routing import Route

from tests.double.answers import Json, most_tokens
from tests.double.batches import metadata_of
from tests.double.faults import ResponseFault
from tests.double.record import SeenResponse
from tests.double.refusals import Refused, invalid, json_body, json_response, missing
from tests.double.response import NEVER, Response, chat

if TYPE_CHECKING:
    from tests.double.world import World

LEAST_OUTPUT_TOKENS = 16
ROLES = ("user", "system", "developer", "assistant")
ITEMS = ("message", "function_call", "function_call_output", "reasoning")
PATIENT = ("2h", "8h")
TIERS = (None, "auto", "default")
FIELDS = frozenset(
    {
        "background",
        "background_options",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "user",
    }
)


class Responses:
    """All responses that were not deleted, the oldest first."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._responses: dict[str, Response]
        self._created: list[Response]
        self.most_open: int
        self.reset()

    def reset(self) -> None:
        self._responses = {}
        self._created = []
        self.most_open = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/responses", self._create, methods=["POST"]),
            Route("/v1/responses/{id}", self._get, methods=["GET"]),
            Route("/v1/responses/{id}", self._delete, methods=["DELETE"]),
            Route("/v1/responses/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    def turn(self, now: float) -> None:
        """Do all that has fallen due by now."""
        for response in self._responses.values():
            while not response.over and response.due() <= now and response.due() != NEVER:
                response.step(response.due())

    def seen(self) -> list[SeenResponse]:
        return [
            SeenResponse(
                id=response.id,
                completion_window=_window(response.body),
                metadata=response.body.get("metadata"),
                status=response.status,
                paid=response.made is not None,
                deleted=response.id not in self._responses,
            )
            for response in self._created
        ]

    async def _create(self, request: Request) -> Answer:
        world = self._world
        body = await json_body(request)
        for name in ("model", "input"):
            if not body.get(name):
                raise missing(name)
        _check(body, world.settings.background_windows)
        world.live.known(body["model"])
        headers = world.limits.charge(world.settings, body["model"], most_tokens(chat(body)))
        fault = world.faults.of_response(await request.body())
        response = Response(
            world=world,
            body=body,
            fault=fault or ResponseFault(holding=""),
            created_at=world.now(),
        )
        self._created.append(response)
        self._responses[response.id] = response
        world.now()
        number = sum(not other.over for other in self._responses.values())
        self.most_open = max(self.most_open, number)
        return json_response(response.as_json(), headers=headers)

    async def _get(self, request: Request) -> Answer:
        return json_response(self._asked(request).as_json())

    async def _delete(self, request: Request) -> Answer:
        response = self._asked(request)
        response.cancel()
        del self._responses[response.id]
        return json_response({"id": response.id, "object": "response", "deleted": True})

    async def _cancel(self, request: Request) -> Answer:
        response = self._asked(request)
        if not response.body.get("background"):
            raise Refused("Only background responses can be cancelled.", param="response_id")
        response.cancel()
        return json_response(response.as_json())

    def _asked(self, request: Request) -> Response:
        self._world.now()
        response = self._responses.get(request.path_params["id"])
        if response is None:
            text = f"Response with id '{request.path_params['id']}' not found."
            raise Refused(text, status=404, param="response_id")
        return response


def _check(body: Json, windows: list[str]) -> None:
    """Raises `Refused` for what OpenAI's types do not know, and for what a window excludes."""
    unknown = body.keys() - FIELDS
    if unknown:
        raise Refused(
            f"Unknown parameter: '{min(unknown)}'.", code="unknown_parameter", param=min(unknown)
        )
    metadata_of(body.get("metadata"))
    most = body.get("max_output_tokens")
    if most is not None and (not isinstance(most, int) or most < LEAST_OUTPUT_TOKENS):
        raise Refused(
            f"Invalid 'max_output_tokens': expected a value >= {LEAST_OUTPUT_TOKENS}.",
            code="integer_below_min_value",
            param="max_output_tokens",
        )
    if isinstance(body["input"], list):
        for item in body["input"]:
            _check_item(item)
    for tool in body.get("tools") or ():
        if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
            raise invalid("tools")
    window = _window(body)
    if window not in ("soonest", *windows):
        raise invalid("background_options.completion_window")
    if window not in PATIENT:
        return
    if not body.get("background"):
        raise invalid("background")
    if body.get("store") is False:
        raise invalid("store")
    if body.get("stream"):
        raise invalid("stream")
    if body.get("service_tier") not in TIERS:
        raise invalid("service_tier")


def _check_item(item: Any) -> None:
    if not isinstance(item, dict) or item.get("type", "message") not in ITEMS:
        raise invalid("input")
    if "role" in item and (item["role"] not in ROLES or item.get("content") is None):
        raise invalid("input")


def _window(body: Json) -> str:
    return str((body.get("background_options") or {}).get("completion_window", "soonest"))
