"""`/admin/v1/batches`: those of all teams, their failed lines and files; cancelled, run again."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from api import batches
from api.admin import admin_of
from api.admin_requests import team_of
from api.batch_objects import batch_object
from api.files import content_of
from api.query import choice_of, limit_of
from api.responses import JSON, REQUEST_PREFIX, listing
from api.services import Services
from carpool.errors import Forbidden, NotFound
from carpool.ids import BATCH_PREFIX, LINE_BITS, parse_public_id, public_id
from carpool.states import BatchStatus
from db.batch_search import FailedLine, OwnedBatch, failed_lines, find_any_batch, list_all_batches
from db.files import find_file
from db.keys import Identity
from db.sweeper import dispatch_jobs

MAX_PAGE = 100
MAX_FAILURES = 1000
STATUSES = {status.name.lower(): status for status in BatchStatus}


async def list_all(request: Request) -> Response:
    """``GET /admin/v1/batches?status=&team=&after=&limit=``: newest first, paged by id."""
    await admin_of(request)
    services: Services = request.app.state.services
    query = request.query_params
    limit = limit_of(query, most=MAX_PAGE)
    status, after = choice_of(query, "status", STATUSES), query.get("after")
    found = await list_all_batches(
        services.database,
        status=None if status is None else STATUSES[status],
        team_id=await team_of(request),
        after=None if after is None else parse_public_id(BATCH_PREFIX, after),
        limit=limit + 1,
    )
    return listing([_object(batch) for batch in found[:limit]], has_more=len(found) > limit)


async def retrieve(request: Request) -> Response:
    """``GET /admin/v1/batches/{id}``."""
    await admin_of(request)
    return JSON(_object(await _addressed(request)))


async def failures(request: Request) -> Response:
    """``GET /admin/v1/batches/{id}/failures?after=&limit=``: by line, paged by their ids."""
    await admin_of(request)
    services: Services = request.app.state.services
    limit = limit_of(request.query_params, most=MAX_FAILURES)
    after = request.query_params.get("after")
    found = await failed_lines(
        services.database,
        await _addressed(request),
        after=None if after is None else parse_public_id(REQUEST_PREFIX, after),
        limit=limit + 1,
    )
    return listing([_failure(line) for line in found[:limit]], has_more=len(found) > limit)


async def cancel(request: Request) -> Response:
    """``POST /admin/v1/batches/{id}/cancel``: as its team would."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    batch = await _addressed(request)
    await batches.cancelled(services, _owner(identity, batch), batch.batch.id)
    return JSON(_object(await _addressed(request)))


async def retry(request: Request) -> Response:
    """``POST /admin/v1/batches/{id}/retry``: a new batch of its team's, by the key that made it."""
    identity = await admin_of(request)
    services: Services = request.app.state.services
    batch = await _addressed(request)
    made = await batches.retry_of(services, _owner(identity, batch), batch.batch.id)
    await dispatch_jobs(services.doorbell, services.broker, [made])
    found = await _found(services, made)
    return JSON(_object(found), written=lambda: services.note_delivery(made))


async def output(request: Request) -> Response:
    """``GET /admin/v1/batches/{id}/output``: the answers."""
    identity = await admin_of(request)
    batch = await _addressed(request)
    return await _file(request, identity, batch, batch.batch.output_file_id)


async def error(request: Request) -> Response:
    """``GET /admin/v1/batches/{id}/error``: the lines that failed."""
    identity = await admin_of(request)
    batch = await _addressed(request)
    return await _file(request, identity, batch, batch.batch.error_file_id)


async def _file(
    request: Request, identity: Identity, batch: OwnedBatch, identifier: UUID | None
) -> Response:
    if not identity.sees_bodies:
        raise Forbidden(
            "This needs an admin's key that sees bodies: `carpool keys create --admin --bodies` "
            "makes one."
        )
    services: Services = request.app.state.services
    seen = None
    if identifier is not None:
        seen = await find_file(services.database, identifier, team_id=batch.team_id)
    if seen is None:
        raise NotFound("The batch has no such file, or not yet.")
    return content_of(request, seen)


async def _addressed(request: Request) -> OwnedBatch:
    services: Services = request.app.state.services
    return await _found(services, parse_public_id(BATCH_PREFIX, request.path_params["id"]))


async def _found(services: Services, identifier: UUID) -> OwnedBatch:
    found = await find_any_batch(services.database, identifier)
    if found is None:
        name = public_id(BATCH_PREFIX, identifier)
        raise NotFound(f"No batch found with id '{name}'.", param="id")
    return found


def _owner(identity: Identity, batch: OwnedBatch) -> Identity:
    """Whoever made the batch, with no right of the admin's."""
    return replace(
        identity,
        key_id=batch.key_id,
        team_id=batch.team_id,
        owner=None,
        admin=False,
        sees_bodies=False,
    )


def _object(found: OwnedBatch) -> dict[str, Any]:
    """OpenAI's batch object, with its team and pace."""
    return {
        **batch_object(found.batch),
        "team": found.team,
        "lines_per_second": found.per_second,
        "eta_seconds": found.eta_seconds,
    }


def _failure(line: FailedLine) -> dict[str, Any]:
    return {
        "id": public_id(REQUEST_PREFIX, line.id),
        "custom_id": msgspec.Raw(line.custom_id.encode()),
        "line": line.id.int & (1 << LINE_BITS) - 1,
        "status_code": line.status_code,
        "code": line.code,
        "message": line.message,
    }
