"""`/v1/savings`: what a team's requests cost and saved; `/admin/v1/savings`: those of all teams."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from api.admin import admin_of
from api.responses import JSON
from api.services import Services
from carpool.errors import InvalidRequest, NotFound
from carpool.prices import NANODOLLARS
from db.savings import GroupBy, Saving, find_team, savings, total

OF_A_TEAM: Final = (GroupBy.MODEL, GroupBy.BACKEND, GroupBy.DAY)


async def of_own_team(request: Request) -> Response:
    """``GET /v1/savings?since=&until=&group_by=model|backend|day``: of the key's own team."""
    services: Services = request.app.state.services
    identity = await services.keys.identify(request)
    if "team" in request.query_params:
        raise InvalidRequest(
            "Invalid 'team': these are the savings of the key's own team; /admin/v1/savings has "
            "those of others.",
            param="team",
        )
    return await _answer(request, identity.team_id, OF_A_TEAM)


async def of_all(request: Request) -> Response:
    """``GET /admin/v1/savings?team=&since=&until=&group_by=model|team|backend|day``."""
    services: Services = request.app.state.services
    await admin_of(request)
    name = request.query_params.get("team")
    team_id = None
    if name is not None:
        team_id = None if "\0" in name else await find_team(services.database, name)
        if team_id is None:
            raise NotFound("There is no team of this name.", param="team")
    return await _answer(request, team_id, tuple(GroupBy))


async def _answer(request: Request, team_id: int | None, known: Sequence[GroupBy]) -> Response:
    services: Services = request.app.state.services
    query = request.query_params
    group_by = _group_by(query, known)
    since, until = _day(query, "since"), _day(query, "until")
    if since is not None and until is not None and until < since:
        raise InvalidRequest("Invalid value for 'until': it is before 'since'.", param="until")
    found = await savings(
        services.database, team_id=team_id, since=since, until=until, group_by=group_by
    )
    return JSON(
        {
            "object": "savings",
            "group_by": group_by,
            "since": since,
            "until": until,
            "currency": "USD",
            "data": [{group_by: saving.key or None, **_sums(saving)} for saving in found],
            "total": _sums(total(found)),
        }
    )


def _sums(saving: Saving) -> dict[str, Any]:
    """Tokens, and dollars to the nanodollar."""
    ledger = saving.ledger
    return {
        "requests": saving.requests,
        "requests_without_price": saving.unpriced,
        "input_tokens": saving.prompt,
        "cached_tokens": saving.cached,
        "output_tokens": saving.completion,
        "paid": ledger.paid / NANODOLLARS,
        "list_price": ledger.listed / NANODOLLARS,
        "saved": {
            "shared": ledger.saved_shared / NANODOLLARS,
            "cache": ledger.saved_cache / NANODOLLARS,
            "prefix": ledger.saved_prefix / NANODOLLARS,
            "window": ledger.saved_window / NANODOLLARS,
            "own": ledger.saved_own / NANODOLLARS,
            "total": ledger.saved / NANODOLLARS,
        },
    }


def _group_by(query: QueryParams, known: Sequence[GroupBy]) -> GroupBy:
    wanted = query.get("group_by", GroupBy.MODEL)
    if wanted not in known:
        raise InvalidRequest(
            f"Invalid value for 'group_by': expected one of {', '.join(known)}.",
            param="group_by",
            code="invalid_value",
        )
    return GroupBy(wanted)


def _day(query: QueryParams, name: str) -> date | None:
    """A day in UTC; both ends of a span are in it."""
    text = query.get(name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a date, as 2026-11-01.",
            param=name,
            code="invalid_value",
        ) from None
