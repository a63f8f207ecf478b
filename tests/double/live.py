"""Live calls: whole answers and streams."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.double.answers import EMBEDDINGS, NEEDED, Answering, Json, malformed, most_tokens
from tests.double.refusals import Refused, invalid, json_body, json_response, missing
from tests.double.settings import MODELS

if TYPE_CHECKING:
    from tests.double.world import World


class Live:
    """The endpoints that answer at once."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def routes(self) -> list[Route]:
        return [
            *(Route(endpoint, self._answer, methods=["POST"]) for endpoint in NEEDED),
            Route("/v1/models", self._models),
            Route("/v1/models/{id:path}", self._model),
        ]

    async def _answer(self, request: Request) -> Response:
        world, endpoint = self._world, request.url.path
        body = await json_body(request)
        for name in ("model", NEEDED[endpoint]):
            if not body.get(name):
                raise missing(name)
        if wrong := malformed(endpoint, body):
            raise invalid(wrong)
        self.known(body["model"])
        headers = world.limits.charge(world.settings, body["model"], most_tokens(body))
        at = int(world.clock.now())
        made = Answering(world.name, endpoint, body, world.prefixes, at)
        if body.get("stream") and endpoint != EMBEDDINGS:
            return StreamingResponse(
                _events(made), headers=headers, media_type="text/event-stream; charset=utf-8"
            )
        return json_response(made.whole(), headers=headers)

    async def _models(self, _: Request) -> Response:
        names = self._world.settings.models
        listed = [_model(name) for name in (MODELS if names is None else names)]
        return json_response({"object": "list", "data": listed})

    async def _model(self, request: Request) -> Response:
        self.known(request.path_params["id"])
        return json_response(_model(request.path_params["id"]))

    def known(self, model: str) -> None:
        """Raises `Refused` for a model that there is not."""
        names = self._world.settings.models
        if names is not None and model not in names:
            raise Refused(
                f"The model `{model}` does not exist or you do not have access to it.",
                status=404,
                code="model_not_found",
            )


async def _events(made: Answering) -> AsyncIterator[bytes]:
    for chunk in made.chunks():
        yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "double"}
