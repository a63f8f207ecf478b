"""Answers that are given again: the exact response cache of each team.

Nothing is stored for it. An identical request of the team is found by its fingerprint, which is a
hash over team, path and body; its result is the answer.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from carpool.ids import id_at
from db.database import Fetches
from db.results import Stored
from db.submit import Submission

LONGEST = timedelta(days=1)
"""How long a request may have run whose answer is still found for its whole time."""
# Of many requests that wait or failed the newest tell enough: what is not found is asked anew.
FIND = """
select s.id, extract(epoch from now() - s.completed_at)::float8 as age
from (
    select id, team_id from requests
    where fingerprint = $1 and shareable and id > $3
    order by id desc limit 64
) r
cross join lateral (
    select id, outcome, completed_at from results where id = r.id limit 1
) s
where
    r.team_id = $2 and s.outcome = 0 and s.completed_at > now() - make_interval(secs => $4)
order by r.id desc
limit 1
"""
GIVE = """
with source as (
    select *, paid + saved_shared + saved_cache + saved_prefix + saved_window + saved_own as listed
    from results where id = $1
), request as (
    insert into requests (
        id, team_id, key_id, person, class, endpoint, model, streamed, body, fingerprint,
        incarnation, deadline, traceparent
    )
    select $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14 from source
), stored as (
    insert into results (
        id, team_id, key_id, model, outcome, status_code, body, streamed, epoch, attempts, backend,
        upstream, saved_cache
    )
    select $2, $3, $4, $8, 0, status_code, body, streamed, 0, 0, backend, upstream, listed
    from source
    returning id, epoch, outcome, status_code, streamed, body, backend, upstream
), counted as (
    insert into deltas (
        team_id, model, backend, completed, failed, cancelled, expired, prompt_tokens,
        cached_tokens, completion_tokens, saved_cache
    )
    select $3, $8, backend, 1, 0, 0, 0, 0, 0, 0, listed from source
)
select * from stored
"""


async def find_answer(
    database: Fetches, *, team_id: int, fingerprint: UUID, max_age_seconds: float
) -> tuple[UUID, float] | None:
    """The newest kept answer to an identical request: its id, and its age in seconds."""
    age = timedelta(seconds=max_age_seconds)
    since = id_at(datetime.now(UTC) - age - LONGEST)
    rows = await database.fetch(FIND, fingerprint, team_id, since, max_age_seconds)
    return (rows[0]["id"], rows[0]["age"]) if rows else None


async def give_answer(database: Fetches, source: UUID, item: Submission) -> Stored | None:
    """Store a request with the answer of another; None where that is gone meanwhile."""
    rows = await database.fetch(
        GIVE,
        source,
        item.id,
        item.team_id,
        item.key_id,
        item.person,
        item.service_class,
        item.endpoint,
        item.model,
        item.streamed,
        item.body,
        item.fingerprint,
        item.incarnation,
        item.deadline,
        item.traceparent,
    )
    return Stored(*rows[0]) if rows else None
