"""`/admin/v1/workers`: the processes and what they run; a worker is drained here, and goes on."""

from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.responses import JSON, listing
from api.services import Services
from carpool.errors import Conflict, InvalidRequest, NotFound
from carpool.ids import parse_public_id, public_id
from carpool.notices import CHANGED_CHANNEL
from db.database import Fetches
from db.workers import WorkerState, WorkerView, list_workers, pause_worker, resume_worker

PREFIX: Final = "proc_"
RUN_PREFIX: Final = "run_"
log = structlog.get_logger()


async def list_all(request: Request) -> Response:
    """``GET /admin/v1/workers``: those that live, then those that died within the hour."""
    await admin_of(request)
    services: Services = request.app.state.services
    found = await list_workers(services.database)
    return listing([_object(view) for view in found], has_more=False)


async def retrieve(request: Request) -> Response:
    """``GET /admin/v1/workers/{id}``."""
    await admin_of(request)
    return JSON(_object(await _found(request)))


async def drain(request: Request) -> Response:
    """``POST /admin/v1/workers/{id}/drain``: it ends what it holds, and begins nothing more."""
    return await _turn(request, pause_worker)


async def resume(request: Request) -> Response:
    """``POST /admin/v1/workers/{id}/resume``: it claims again at once; its engine is loaded."""
    return await _turn(request, resume_worker)


async def _turn(request: Request, turn: Callable[[Fetches, UUID], Awaitable[None]]) -> Response:
    identity = await admin_of(request)
    services: Services = request.app.state.services
    view = await _found(request)
    if view.kind != "worker":
        raise InvalidRequest(
            f"Only a worker can be drained; this is of the kind '{view.kind}'.",
            param="id",
            code="not_a_worker",
        )
    if view.state is WorkerState.DEAD:
        raise Conflict("This worker is dead.", param="id", code="worker_dead")
    await turn(services.database, view.id)
    services.doorbell.announce(CHANGED_CHANNEL)
    log.info(turn.__name__, process=str(view.id), by=str(identity.key_id))
    return JSON(_object(await _found(request)))


async def _found(request: Request) -> WorkerView:
    services: Services = request.app.state.services
    identifier = parse_public_id(PREFIX, request.path_params["id"])
    found = await list_workers(services.database, identifier)
    if not found:
        raise NotFound("There is no process of this id.", param="id")
    return found[0]


def _object(view: WorkerView) -> dict[str, Any]:
    return {
        "id": public_id(PREFIX, view.id),
        "object": "worker",
        "kind": view.kind,
        "backend": view.backend,
        "host": view.host,
        "pid": view.pid,
        "state": view.state,
        "started_at": view.started_at.timestamp(),
        "heartbeat_seconds": round(view.heartbeat_seconds, 3),
        "runs": [
            {
                "id": public_id(RUN_PREFIX, run.id),
                "backend": run.backend,
                "in_flight": run.in_flight,
                "capacity": run.capacity,
                "accepting": run.accepting,
                "started_at": run.started_at,
                "figures": run.engine,
            }
            for run in view.runs
        ],
    }
