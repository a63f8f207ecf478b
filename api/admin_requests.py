"""`/admin/v1/requests`: those of all teams, and one's whole story."""

import re
from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.objects import request_object, waits_object
from api.query import choice_of, limit_of, text_of
from api.responses import JSON, REQUEST_PREFIX
from api.services import Services
from carpool.errors import NotFound
from carpool.ids import BATCH_PREFIX, parse_public_id, public_id
from carpool.states import RequestStatus, ServiceClass
from db.end import CANCELLED, end_requests
from db.keys import Identity
from db.reasons import reason_of
from db.savings import find_team
from db.search import Details, Wanted, body_of, details, search
from db.sweeper import tell_ended
from db.timeline import Event, timeline
from db.view import MAX_PAGE, view, views

RUN_PREFIX = "run_"
HIDDEN = ("body", "response")
"""What only a key with the scope for bodies is shown."""
# ``req_`` of a request, ``batch_req_`` of a line in a result file, or neither, as in logs.
_ID = re.compile(r"(?:batch_)?(?:req_)?(?P<hex>[0-9a-f]{32})")


async def list_all(request: Request) -> Response:
    """``GET /admin/v1/requests?team=&status=&model=&batch=&after=&limit=``: newest first.

    Where few of many fit, a page may be short, or empty, though ``has_more`` is true: ``last_id``
    is always where to go on.
    """
    await admin_of(request)
    services: Services = request.app.state.services
    query = request.query_params
    limit = limit_of(query, most=MAX_PAGE)
    status = choice_of(query, "status", tuple(RequestStatus))
    batch, after = query.get("batch"), query.get("after")
    page = await search(
        services.database,
        Wanted(
            team_id=await team_of(request),
            status=None if status is None else RequestStatus(status),
            model=text_of(query, "model"),
            batch=None if batch is None else parse_public_id(BATCH_PREFIX, batch),
        ),
        before=None if after is None else _parse(after),
        limit=limit,
    )
    found = await views(services.database, page.ids)
    more = await details(services.database, page.ids)
    data = [_object(request_object(seen), more[seen.id]) for seen in found if seen.id in more]
    last = page.before if page.before is not None else page.ids[-1] if page.ids else None
    return JSON(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": None if last is None else public_id(REQUEST_PREFIX, last),
            "has_more": page.before is not None,
        }
    )


async def retrieve(request: Request) -> Response:
    """``GET /admin/v1/requests/{id}``: with its timeline, and why it waits, if it does."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    return JSON(await _whole(services, identity, await _addressed(request)))


async def cancel(request: Request) -> Response:
    """``DELETE /admin/v1/requests/{id}``: cancelled; one that has ended is returned as it is."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    asked = await _addressed(request)
    ended = await end_requests(services.database, [asked.id], CANCELLED, team_id=asked.team_id)
    tell_ended(services.doorbell, ended)
    return JSON(await _whole(services, identity, asked))


async def team_of(request: Request) -> int | None:
    """The team that is asked for by its name; NotFound where there is none, None for all."""
    services: Services = request.app.state.services
    name = text_of(request.query_params, "team")
    if name is None:
        return None
    team_id = await find_team(services.database, name)
    if team_id is None:
        raise NotFound("There is no team of this name.", param="team")
    return team_id


async def _whole(services: Services, identity: Identity, asked: Details) -> dict[str, Any]:
    seen = await view(services.database, asked.id, team_id=asked.team_id)
    if seen is None:
        raise _missing(asked.id.hex)
    shown = request_object(seen)
    whole = _object(shown, asked)
    if identity.sees_bodies:
        whole["body"] = msgspec.Raw(await body_of(services.database, asked.id))
        whole |= {"response": shown["response"], "error": shown["error"]}
    else:
        whole["hidden"] = HIDDEN
    situation = await services.situation.get(None)
    waits = await reason_of(services.database, asked.id, situation=situation)
    events = await timeline(services.database, asked.id)
    return whole | {
        "waits": None if waits is None else waits_object(waits),
        "timeline": [_event(event) for event in events],
    }


def _object(shown: dict[str, Any], more: Details) -> dict[str, Any]:
    """A request object without its answer, and with whose it is."""
    return {
        **{name: value for name, value in shown.items() if name not in ("response", "error")},
        "team": more.team,
        "class": ServiceClass(more.service_class).name.lower(),
        "person": more.person,
        "batch": None if more.batch_id is None else public_id(BATCH_PREFIX, more.batch_id),
        "custom_id": None if more.custom_id is None else msgspec.Raw(more.custom_id.encode()),
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.timestamp(),
        "event": event.event,
        "text": event.text,
        "backend": event.backend,
        "worker": event.worker,
        "run": None if event.run is None else public_id(RUN_PREFIX, event.run),
        "epoch": event.epoch,
        "error": event.error,
    }


async def _addressed(request: Request) -> Details:
    services: Services = request.app.state.services
    text = request.path_params["id"]
    identifier = _parse(text)
    found = await details(services.database, [identifier])
    if identifier not in found:
        raise _missing(text)
    return found[identifier]


def _parse(text: str) -> UUID:
    """The id of a request, in any of the forms in which it is told."""
    match = _ID.fullmatch(text.lower().replace("-", ""))
    if match is None:
        raise _missing(text)
    return UUID(hex=match["hex"])


def _missing(text: str) -> NotFound:
    return NotFound(f"No request with the id '{text[:80]}' exists.", param="id")
