"""What only the engine can tell to be bad input leaves no more behind than what the API refuses."""

from uuid import UUID

from db.database import Fetches

FORGET = """
with refused as (
    delete from results where id = $1 and outcome = 1 and status_code = 400 returning id, team_id
), request as (
    delete from requests r using refused where r.id = refused.id
), attempt as (
    delete from attempts a using refused where a.id = refused.id
)
delete from idempotency_keys i using refused
where i.team_id = refused.team_id and i.key = $2 and i.request_id = refused.id
"""


async def forget_refused(database: Fetches, request: UUID, *, key: UUID | None) -> None:
    """Remove a request that ended with status 400, and its Idempotency-Key, in one statement."""
    await database.fetch(FORGET, request, key)
