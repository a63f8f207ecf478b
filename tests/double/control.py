"""What a test tells the double, as JSON under `/__control__/`; see launch.py for the words."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.double.faults import AnyFault, BatchFault, Fault, LineFault, ResponseFault
from tests.double.refusals import Refused, json_response
from tests.double.settings import Settings
from tests.double.world import World

Json = dict[str, Any]
FAULTS: dict[str, type[AnyFault]] = {
    "fault": Fault,
    "line_fault": LineFault,
    "batch_fault": BatchFault,
    "response_fault": ResponseFault,
}


class Control:
    """One method for each word."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        return [Route("/__control__/{word}", self._hear, methods=["POST"])]

    async def _hear(self, request: Request) -> Response:
        word = request.path_params["word"]
        try:
            body = msgspec.json.decode(await request.body(), type=dict[str, Any])
            return json_response(await self._do(word, body))
        except (msgspec.ValidationError, msgspec.DecodeError, KeyError, TypeError) as error:
            raise Refused(f"{word}: {error!r}", param=word) from None

    async def _do(self, word: str, body: Json) -> object:
        world = self._world
        match word:
            case "reset":
                world.reset()
            case "settings":
                changed = msgspec.to_builtins(world.settings) | body
                world.settings = msgspec.convert(changed, Settings)
                world.limits.refill()
            case "advance":
                world.clock.advance(body["seconds"])
            case "auto":
                world.clock.auto(body["factor"])
            case "fault" | "line_fault" | "batch_fault" | "response_fault":
                return {"number": world.faults.add(msgspec.convert(body, FAULTS[word]))}
            case "clear":
                world.faults.clear(body["number"])
            case "release":
                world.record.release()
            case "forget":
                world.record.forget()
            case "until":
                await world.record.until(body["path"], body["method"], body["count"])
            case "until_held":
                await world.record.until_held(body["count"])
            case "seen":
                return world.seen()
            case _:
                raise Refused(f"No such word: {word}", status=404)
        return {"name": world.name, "now": world.now()}
