"""Takes a request in: stored as new work, or joined to the work that it repeats.

The rules are those of COMPAT section 3, 'Duplicate work'.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from starlette.requests import Request

from api.auth import REQUEST
from api.idempotency import key_of, stored_once
from api.intake import Intake
from api.services import Services, Ticket
from api.sharing import sharing_of
from api.traces import described
from api.waiting import Sink
from carpool import tracing
from carpool.errors import Unavailable
from carpool.ids import new_id
from carpool.notices import Waiting
from carpool.routing import SHARES, Route
from carpool.states import ENDPOINTS, ServiceClass
from carpool.windows import DEADLINE_HEADER, parse_deadline
from db.cache import find_answer, give_answer
from db.delivery import attach, leave, take_over
from db.keys import Identity
from db.results import result_of
from db.submit import Submission, store_submission

MAX_PERSON_LENGTH = 255
MAX_COUNT_DIGITS = 9


async def admit(
    services: Services, request: Request, identity: Identity, intake: Intake, sink: Sink | None
) -> Ticket:
    """Store a request durably, or find the one that it repeats.

    ``sink`` waits for the answer, from before the request can be claimed; it is None where no one
    waits. Raises NotFound for an unknown model, InvalidRequest for a deadline that is none,
    IdempotencyMismatch for a reused key, Unavailable where Postgres is away; the sink then waits
    for nothing.
    """
    deadline = _deadline(request)
    route = await services.catalog.route(intake.model)
    service_class = _class(intake, route, services.patient)
    key = key_of(request, intake.endpoint)
    if key is None and _retries(request) > 0:
        ticket = await _taken_over(services, identity, intake, sink)
        if ticket is not None:
            return ticket
    sharing = sharing_of(request, intake)
    submission = _submission(
        services,
        identity,
        intake,
        service_class,
        waits=sink is not None,
        shared=route.shared,
        shareable=sharing.shareable,
        deadline=deadline,
    )
    request.scope[REQUEST] = submission.id
    described(submission)
    cache = None
    if route.cache_seconds and key is None:
        most = min(route.cache_seconds, sharing.max_age_seconds)
        hit = await _kept(services, submission, sink, max_age_seconds=most)
        if hit is not None:
            return hit
        cache = "carpool; fwd=miss" if most else "carpool; fwd=request"
    first = await _stored(services, submission, sink, key)
    if first != submission.id:
        return Ticket(request=first, connection=new_id(), key=key)
    bell = Waiting(intake.model, service_class, identity.team_id, share=submission.share)
    for backend in {leg.backend for leg in route.legs}:
        services.doorbell.ring(backend, bell)
    return Ticket(request=first, connection=first, key=key, cache=cache)


async def _stored(
    services: Services, submission: Submission, sink: Sink | None, key: UUID | None
) -> UUID:
    """Store new work, for which the sink waits; the id of what was stored first under its key."""
    if sink is not None:
        services.waiting.add(sink, submission.id)
    try:
        if key is None:
            origin = await services.submissions.put(submission)
            if origin is not None:
                services.waiting.read(submission.id, origin)
            return submission.id
        first = await stored_once(
            services,
            partial(store_submission, submission),
            submission.id,
            team_id=submission.team_id,
            key=key,
            fingerprint=submission.fingerprint,
        )
        if first != submission.id and not await _joined(services, first, sink):
            raise Unavailable("The first request of this key was just refused; try again.")
        return first
    except BaseException as error:
        if sink is not None:
            services.waiting.remove(sink)
        if isinstance(error, Unavailable):
            # It may be stored all the same: then the client's retry shall find it.
            services.disconnected(Ticket(submission.id, submission.id), alone=True)
        raise


async def _taken_over(
    services: Services, identity: Identity, intake: Intake, sink: Sink | None
) -> Ticket | None:
    """The undelivered request that a client's retry repeats; None where it is new work."""
    found = await take_over(
        services.database,
        team_id=identity.team_id,
        fingerprint=intake.fingerprint,
        incarnation=services.incarnation,
    )
    if found is None or not await _joined(services, found[0], sink):
        return None
    return Ticket(request=found[0], connection=found[1])


async def _kept(
    services: Services, submission: Submission, sink: Sink | None, *, max_age_seconds: float
) -> Ticket | None:
    """Answer a request with what an identical one was answered; None where nothing is kept."""
    if not max_age_seconds:
        return None
    found = await find_answer(
        services.database,
        team_id=submission.team_id,
        fingerprint=submission.fingerprint,
        max_age_seconds=max_age_seconds,
    )
    if found is None:
        return None
    source, age = found
    stored = await give_answer(services.database, source, submission)
    if stored is None:
        return None
    if sink is not None:
        services.waiting.add(sink, submission.id)
        sink.stored(stored)
    return Ticket(
        request=submission.id,
        connection=submission.id,
        cache="carpool; hit",
        age_seconds=age,
    )


async def _joined(services: Services, request: UUID, sink: Sink | None) -> bool:
    """Let a sink wait for a request that may have run, or ended; False where it is forgotten."""
    if sink is None:
        await leave(services.database, request)
        return True
    services.waiting.remove(sink)
    services.waiting.add(sink, request)
    if not await attach(services.database, request, services.incarnation):
        result = await result_of(services.database, request)
        if result is None:
            services.waiting.remove(sink)
            return False
        sink.stored(result)
    return True


def _submission(
    services: Services,
    identity: Identity,
    intake: Intake,
    service_class: ServiceClass,
    *,
    waits: bool,
    shared: bool,
    shareable: bool,
    deadline: datetime | None,
) -> Submission:
    return Submission(
        id=new_id(),
        team_id=identity.team_id,
        key_id=identity.key_id,
        person=_shortened(identity.owner or intake.person),
        service_class=service_class,
        endpoint=ENDPOINTS.index(intake.endpoint),
        model=intake.model,
        streamed=intake.stream,
        body=intake.raw,
        fingerprint=intake.fingerprint,
        incarnation=services.incarnation,
        channel=services.incarnation if waits else None,
        share=intake.fingerprint.int % SHARES if shared else None,
        prefix_key=intake.prefix_key,
        deadline=deadline,
        shareable=shareable,
        traceparent=tracing.current().traceparent,
    )


def _class(intake: Intake, route: Route, patient: Collection[str]) -> ServiceClass:
    """Flex, unless it is a stream that a backend which gathers would keep and never answer."""
    if intake.service_class is ServiceClass.FLEX and intake.stream:
        for leg in route.legs:
            if leg.backend in patient and leg.serves(ServiceClass.FLEX):
                return ServiceClass.INTERACTIVE
    return intake.service_class


def _deadline(request: Request) -> datetime | None:
    text = request.headers.get(DEADLINE_HEADER)
    return None if text is None else datetime.now(UTC) + parse_deadline(text)


def _shortened(person: str | None) -> str | None:
    return None if person is None else person[:MAX_PERSON_LENGTH]


def _retries(request: Request) -> int:
    count = request.headers.get("x-stainless-retry-count", "0")
    # Python refuses to read thousands of digits.
    return int(count) if count.isdecimal() and len(count) <= MAX_COUNT_DIGITS else 0
