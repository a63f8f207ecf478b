"""Routes as they are stored, and how they change: each change is one transaction with its history.

A change grows the version of the routing, under the lock of whose row all changes stand in line.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog

from carpool.routing import Leg, Route, RouteError, check, resolved
from carpool.settings import ModelSettings
from db.database import Database, Fetches

LOCK = "select version from routing for update"
GROW = "update routing set version = version + 1 returning version"
ROUTES = "select model, alias, cache_seconds, from_file from routes order by model"
LEGS = """
select
    model, backend, upstream, classes, teams, share_percent, after_seconds, left_seconds, max_price
from legs order by model, position
"""
STATE = """
select
    (select version from routing) as version,
    (
        select coalesce(json_object_agg(up.backend, up.patience), '{}')::text
        from (
            select backend, max(patience_seconds) as patience
            from runs where ended_at is null and accepting
            group by backend
        ) up
    ) as live
"""
PUT = """
insert into routes (model, alias, cache_seconds, from_file) values ($1, $2, $3, $4)
on conflict (model) do update
set
    alias = excluded.alias, cache_seconds = excluded.cache_seconds, changed_at = now(),
    from_file = coalesce(excluded.from_file, routes.from_file)
"""
REMOVE_LEGS = "delete from legs where model = $1"
PUT_LEGS = """
insert into legs (
    model, position, backend, upstream, classes, teams, share_percent, after_seconds, left_seconds,
    max_price
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
REMOVE = "delete from routes where model = $1"
NOTE = "insert into route_changes (actor, model, before, after) values ($1, $2, $3, $4)"
CHANGES = """
select at, actor, model, before, after from route_changes
where $1::text is null or model = $1 order by id desc limit $2
"""
BACKENDS = """
select distinct backend from runs where ended_at is null or ended_at > now() - interval '7 days'
union select backend from legs
"""
_decode_live = msgspec.json.Decoder(dict[str, float | None]).decode
PATIENT = "select distinct backend from runs where patience_seconds is not null"
CLASS_NAMES = ("interactive", "flex", "batch")
BY_FILE = "file"
BY_DISCOVERY = "discovery"
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """All routes at a version, aliases followed, and the backends that are up."""

    version: int
    routes: Mapping[str, Route]
    live: Mapping[str, float | None]
    """The backends that are up, with the patience of those that take their time, in seconds."""

    @property
    def patience(self) -> dict[str, float]:
        """Of the backends that take their time: below how many seconds left they do not."""
        return {backend: left for backend, left in self.live.items() if left is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of a route: who made it, and the route before and after; None is no route."""

    at: datetime
    actor: str
    model: str
    before: Route | None
    after: Route | None


async def read_routing(database: Fetches) -> Routing:
    """The routing now. A change between its statements is told by the next version."""
    [state] = await database.fetch(STATE)
    routes, _ = await _stored(database)
    return Routing(
        version=state["version"],
        routes={model: resolved(model, routes) for model in routes},
        live=_decode_live(state["live"]),
    )


async def routing_version(database: Fetches) -> int:
    """By which a claim is known to be planned by routes that still hold."""
    [row] = await database.fetch("select version from routing")
    return int(row["version"])


async def list_routes(database: Fetches) -> dict[str, Route]:
    """The routes as they were set, aliases not followed, by their models' names."""
    routes, _ = await _stored(database)
    return routes


async def known_backends(database: Fetches) -> frozenset[str]:
    """The backends that are up, were so lately, or that a route leads to."""
    return frozenset(row["backend"] for row in await database.fetch(BACKENDS))


async def set_route(
    database: Database,
    model: str,
    route: Route,
    *,
    actor: str,
    backends: Collection[str] = (),
    patient: Collection[str] = (),
) -> Route | None:
    """Give a model a route, and note who did; returns the route before.

    ``backends``, and those of them that are ``patient``, are known beside those that the database
    knows. Raises RouteError, with nothing changed, for a route that cannot be.
    """
    async with database.transaction() as driver:
        await driver.fetch(LOCK)
        routes, _ = await _stored(driver)
        known = {*backends, *await known_backends(driver)}
        slow = {*patient, *(row["backend"] for row in await driver.fetch(PATIENT))}
        check(model, route, backends=known, patient=slow, routes=routes)
        return await _put(driver, model, route, routes, actor=actor)


async def delete_route(database: Database, model: str, *, actor: str) -> Route | None:
    """Take a model's route away; what waits, waits. Raises RouteError where an alias needs it."""
    async with database.transaction() as driver:
        await driver.fetch(LOCK)
        routes, _ = await _stored(driver)
        before = routes.pop(model, None)
        if before is None:
            return None
        for other, route in routes.items():
            check(other, route, backends=await known_backends(driver), routes=routes)
        await driver.fetch(REMOVE_LEGS, model)
        await driver.fetch(REMOVE, model)
        await driver.fetch(NOTE, actor, model, _text(before), None)
        await driver.fetch(GROW)
        return before


async def route_changes(database: Fetches, model: str | None, *, limit: int) -> list[Change]:
    """The last changes (of one model, where given), newest first."""
    return [
        Change(
            at=row["at"],
            actor=row["actor"],
            model=row["model"],
            before=_route(row["before"]),
            after=_route(row["after"]),
        )
        for row in await database.fetch(CHANGES, model, limit)
    ]


async def ensure_routes(database: Database, models: Mapping[str, ModelSettings]) -> None:
    """Give the models of the settings their routes, unless the settings say the same as before.

    So a start does not undo what was changed while running, and a changed file is obeyed.
    """
    wanted = {model: settings.route for model, settings in models.items()}
    _, before = await _stored(database)
    if all(before.get(model) == _text(route) for model, route in wanted.items()):
        return
    async with database.transaction() as driver:
        await driver.fetch(LOCK)
        routes, from_file = await _stored(driver)
        new = {m: route for m, route in wanted.items() if from_file.get(m) != _text(route)}
        for model, route in new.items():
            try:
                if route.alias is not None:
                    check(model, route, backends=(), routes={**routes, **new})
            except RouteError as error:
                # It fits the file, but not what was changed while running.
                log.warning("route_of_file_refused", model=model, reason=str(error))
                continue
            await _put(driver, model, route, routes, actor=BY_FILE, from_file=_text(route))


async def discover_routes(database: Database, backend: str, models: Sequence[str]) -> None:
    """Make a route to a backend for each model that it reports and that no leg of it names yet."""
    async with database.transaction() as driver:
        await driver.fetch(LOCK)
        routes, _ = await _stored(driver)
        named = {
            resolved(model, routes).legs[place].upstream
            for model, route in routes.items()
            for place, leg in enumerate(resolved(model, routes).legs)
            if leg.backend == backend
        }
        for model in models:
            if model not in named and model not in routes:
                route = Route(legs=(Leg(backend=backend),))
                await _put(driver, model, route, routes, actor=BY_DISCOVERY)


async def backends_of(database: Fetches, model: str) -> list[str]:
    """The backends that a leg leads to from a model, live or not."""
    routes, _ = await _stored(database)
    if model not in routes:
        return []
    return list(dict.fromkeys(leg.backend for leg in resolved(model, routes).legs))


async def _put(
    driver: Any,
    model: str,
    route: Route,
    routes: dict[str, Route],
    *,
    actor: str,
    from_file: str | None = None,
) -> Route | None:
    before = routes.get(model)
    await driver.fetch(PUT, model, route.alias, route.cache_seconds, from_file)
    if route == before:
        return before
    routes[model] = route
    await driver.fetch(REMOVE_LEGS, model)
    for place, leg in enumerate(route.legs):
        await driver.fetch(PUT_LEGS, model, place, *_columns(leg))
    await driver.fetch(NOTE, actor, model, _text(before), _text(route))
    await driver.fetch(GROW)
    return before


async def _stored(database: Fetches) -> tuple[dict[str, Route], dict[str, str]]:
    """The routes, and what the settings last said of those that came from there."""
    legs: dict[str, list[Leg]] = {}
    for row in await database.fetch(LEGS):
        legs.setdefault(row["model"], []).append(_leg(row))
    routes = {}
    from_file = {}
    for row in await database.fetch(ROUTES):
        routes[row["model"]] = Route(
            legs=tuple(legs.get(row["model"], ())),
            alias=row["alias"],
            cache_seconds=row["cache_seconds"],
        )
        if row["from_file"] is not None:
            from_file[row["model"]] = row["from_file"]
    return routes, from_file


def _leg(row: Any) -> Leg:
    classes = row["classes"]
    return Leg(
        backend=row["backend"],
        upstream=row["upstream"],
        classes=None if classes is None else tuple(CLASS_NAMES[place] for place in classes),  # type: ignore[misc]
        teams=None if row["teams"] is None else tuple(row["teams"]),
        share=row["share_percent"],
        after_seconds=row["after_seconds"],
        left_seconds=row["left_seconds"],
        max_price=row["max_price"],
    )


def _columns(leg: Leg) -> tuple[Any, ...]:
    return (
        leg.backend,
        leg.upstream,
        None if leg.classes is None else [CLASS_NAMES.index(name) for name in leg.classes],
        None if leg.teams is None else list(leg.teams),
        leg.share,
        leg.after_seconds,
        leg.left_seconds,
        leg.max_price,
    )


def _text(route: Route | None) -> str | None:
    return None if route is None else msgspec.json.encode(route).decode()


def _route(text: str | None) -> Route | None:
    return None if text is None else msgspec.json.decode(text, type=Route)
