"""Pages of a list, by OpenAI's cursors."""

from starlette.requests import Request
from starlette.responses import Response

from tests.double.refusals import Json, Refused, json_response


def page(items: list[Json], request: Request, *, most: int, usual: int) -> Response:
    """What follows `after`, an id, at most `limit` of it; raises `Refused`."""
    asked = request.query_params.get("limit", str(usual))
    limit = int(asked) if asked.isdecimal() else 0
    if not 1 <= limit <= most:
        raise Refused(
            f"Invalid 'limit': expected 1 to {most}.", code="invalid_value", param="limit"
        )
    after = request.query_params.get("after")
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise Refused(f"No such object: {after}", status=404, param="after")
        items = items[ids.index(after) + 1 :]
    shown = items[:limit]
    return json_response(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(items) > limit,
        }
    )
